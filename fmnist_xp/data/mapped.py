def is_mapped(a):
    return False


def forget(a):
    return None
