"""Matrices of a warp: fragments as NVIDIA's PTX ISA manual draws them, and exact products of small integers."""

import numpy as np
import pytest

from ptx import Divergence, Memory, Misaligned, OutOfBounds, Race, Uninitialised, UnknownInstruction, pack
from ptx.instruction_helpers import kernel, run

WARPS = 2
LANES = np.arange(32)
GROUP, MEMBER = LANES // 4, LANES % 4  # groupID and threadID_in_group


def bits16(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bf16":
        return (values.astype("f4").view("u4") >> 16).astype("u2")
    return values.astype("f2").view("u2")


def pairs(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, kind: str) -> np.ndarray:
    """Of each lane the elements (row, column) and (row, column + 1) in a word, the first low."""
    low, high = bits16(values[rows, columns], kind), bits16(values[rows, columns + 1], kind)
    return low.astype("u4") | high.astype("u4") << np.uint32(16)


def a_fragment(a: np.ndarray, kind: str) -> list[np.ndarray]:
    """Matrix A of m16n8k16 (four registers) or m16n8k8 (two) for .f16 and .bf16, and of .tf32 (four, two)."""
    k = a.shape[1]
    if kind == "tf32":
        places = [(GROUP + 8 * (i & 1), MEMBER + 4 * (i >> 1)) for i in range(k // 2)]
        return [a.astype("f4")[place].view("u4") for place in places]
    return [pairs(a, GROUP + 8 * (i % 2), 2 * MEMBER + 8 * (i // 2), kind) for i in range(k // 4)]


def b_fragment(b: np.ndarray, kind: str) -> list[np.ndarray]:
    k = b.shape[0]
    if kind == "tf32":
        return [b.astype("f4")[MEMBER + 4 * i, GROUP].view("u4") for i in range(k // 4)]
    return [pairs(b.T, GROUP, 2 * MEMBER + 8 * i, kind) for i in range(k // 8)]


def c_fragment(c: np.ndarray, kind: str) -> list[np.ndarray]:
    if kind == "f16":
        return [pairs(c, GROUP + 8 * i, 2 * MEMBER, "f16") for i in range(2)]
    return [c.astype("f4")[GROUP + 8 * (i // 2), 2 * MEMBER + i % 2].view("u4") for i in range(4)]


def launch(body: str, words: np.ndarray, count: int, **options: object) -> np.ndarray:
    """Run a body for one block: each thread has a row of words at %l0, and one of `count` words at %l1."""
    found = np.zeros((len(words), count), "u4")
    memory = Memory()
    memory.add(words, name="given")
    memory.add(found, name="found")
    text = f"""mad.wide.u32 %l0, %index, {4 * words.shape[1]}, %p0; mad.wide.u32 %l1, %index, {4 * count}, %p1;
        {body} ret;"""
    one = kernel(text, ["u4"], ["u4"], **options)  # type: ignore[arg-type]
    one.launch((1,), (len(words),), [pack(words), pack(found)], memory)
    return found


def names(first: int, count: int) -> str:
    return "{" + ", ".join(f"%t{i}" for i in range(first, first + count)) + "}"


def loads(count: int) -> str:
    return " ".join(f"ld.global.b32 %t{i}, [%l0+{4 * i}];" for i in range(count))


def stores(count: int) -> str:
    return " ".join(f"st.global.b32 [%l1+{4 * i}], %t{i};" for i in range(count))


SHAPES = [
    *(("m16n8k16", "f16", result) for result in ("f16", "f32")),
    *(("m16n8k8", "f16", result) for result in ("f16", "f32")),
    *((f"m16n8k{k}", "bf16", "f32") for k in (8, 16)),
    *((f"m16n8k{k}", "tf32", "f32") for k in (4, 8)),
]


class TestProducts:
    @pytest.mark.parametrize(("shape", "kind", "result"), SHAPES)
    @pytest.mark.parametrize("target", ["sm_80", "sm_90"])
    def test_of_each_shape(self, shape: str, kind: str, result: str, target: str) -> None:
        k, generator = int(shape.removeprefix("m16n8k")), np.random.default_rng(4)
        words, wanted = [], []
        for _ in range(WARPS):
            a, b, c = (generator.integers(-4, 5, size) for size in ((16, k), (k, 8), (16, 8)))
            words.append(np.stack([*a_fragment(a, kind), *b_fragment(b, kind), *c_fragment(c, result)], axis=1))
            wanted.append(np.stack(c_fragment(a @ b + c, result), axis=1))
        count = {"a": k // 2 if kind == "tf32" else k // 4, "b": k // 4 if kind == "tf32" else k // 8}
        count["c"] = 2 if result == "f16" else 4
        first = count["a"] + count["b"]
        body = f"""{loads(first + count["c"])}
            mma.sync.aligned.{shape}.row.col.{result}.{kind}.{kind}.{result} {names(0, count["c"])},
            {names(0, count["a"])}, {names(count["a"], count["b"])}, {names(first, count["c"])};
            {stores(count["c"])}"""
        found = launch(body, np.concatenate(words), count["c"], target=target)
        assert found.tolist() == np.concatenate(wanted).tolist()

    def test_some_warps_alone(self) -> None:
        words = np.zeros((96, 10), "u4")
        words[:, :6] = 0x3C003C00  # ones
        body = f"""{loads(10)} shr.u32 %t15, %index, 5; setp.eq.u32 %p, %t15, 1; @%p bra done;
            mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {names(6, 4)}, {names(0, 4)}, {names(4, 2)},
            {names(6, 4)}; done: mov.b32 %t0, %t6; {stores(1)}"""
        found = launch(body, words, 1).view("f4")
        assert found.reshape(3, 32)[:, 0].tolist() == [16, 0, 16]
        assert [len(set(warp)) for warp in found.reshape(3, 32).tolist()] == [1, 1, 1]

    def test_not_all_lanes(self) -> None:
        body = f"""setp.lt.u32 %p, %index, 16; @%p mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {names(0, 4)},
            {names(0, 4)}, {names(4, 2)}, {names(0, 4)}; bar.warp.sync -1;"""
        with pytest.raises(Divergence, match="waits for lanes of its warp that never come"):
            launch(body, np.zeros((32, 1), "u4"), 1)
        with pytest.raises(Divergence, match="not all 32 lanes of the warp are there"):
            launch(body.replace("16;", "40;"), np.zeros((40, 1), "u4"), 1)


def shared_rows(count: int, seed: int = 6) -> np.ndarray:
    """Rows of 8 numbers of 16 bits, for as many matrices as are asked for."""
    return np.random.default_rng(seed).integers(0, 2**16, (WARPS, count, 8, 8)).astype("u2")


STAGE = """mov.u32 %t12, buffer; mov.u32 %t13, %tid.x; mad.lo.u32 %t12, %t13, 16, %t12;
    ld.global.v4.u32 {{%t0, %t1, %t2, %t3}}, [%l0]; st.shared.v4.u32 [%t12], {{%t0, %t1, %t2, %t3}}; {}"""
BUFFER = ".shared .align 16 .b8 buffer[4096];"


class TestLdmatrix:
    @pytest.mark.parametrize("count", [1, 2, 4])
    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("generic", [False, True])
    def test_rows_become_fragments(self, count: int, transposed: bool, generic: bool) -> None:
        """The manual: lanes 8 i to 8 i + 7 have the addresses of matrix i's rows; lane l gets row l / 4, elements
        2 (l % 4) and the next; transposed, columns for rows. Addresses of other lanes do not count."""
        rows = shared_rows(4)
        given = np.zeros((WARPS, 32, 4), "u4")
        given[:] = rows.reshape(WARPS, 32, 8).view("u4")
        space, address = ("", "%l2") if generic else (".shared", "%t12")
        body = f"""{STAGE.format("bar.warp.sync -1;")} and.b32 %t14, %t13, 31;
            setp.ge.u32 %p, %t14, {8 * count}; @%p mov.u32 %t12, 3;
            cvt.u64.u32 %l2, %t12; cvta.shared.u64 %l2, %l2;
            ldmatrix.sync.aligned.m8n8.x{count}{".trans" * transposed}{space}.b16 {names(0, count)}, [{address}];
            {stores(count)}"""
        found = launch(body, given.reshape(-1, 4), count, module=BUFFER)
        for warp in range(WARPS):
            matrices = rows[warp].transpose(0, 2, 1) if transposed else rows[warp]
            wanted = [
                matrices[i][GROUP, 2 * MEMBER].astype("u4")
                | matrices[i][GROUP, 2 * MEMBER + 1].astype("u4") << np.uint32(16)
                for i in range(count)
            ]
            assert found.reshape(WARPS, 32, count)[warp].T.tolist() == np.array(wanted).tolist()

    def test_rows_have_to_be_written_and_in_order(self) -> None:
        given = np.zeros((64, 4), "u4")
        read = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%t0}, [%t12];"
        launch(STAGE.format(read), given, 1, module=BUFFER)
        with pytest.raises(Uninitialised):
            launch(STAGE.format("add.u32 %t12, %t12, 1024;" + read), given, 1, module=BUFFER)
        with pytest.raises(Race):  # rows of the other warp, without a barrier
            launch(
                STAGE.format("xor.b32 %t13, %t13, 32; mov.u32 %t12, buffer; mad.lo.u32 %t12, %t13, 16, %t12;" + read),
                given,
                1,
                module=BUFFER,
            )
        with pytest.raises(OutOfBounds):
            launch(STAGE.format("add.u32 %t12, %t12, 4096;" + read), given, 1, module=BUFFER)
        with pytest.raises(Misaligned, match="is not a multiple of 16"):
            launch(STAGE.format("add.u32 %t12, %t12, 8;" + read), given, 1, module=BUFFER)


def test_movmatrix() -> None:
    rows = shared_rows(1)[:, 0]
    given = np.stack(
        [
            part[GROUP, 2 * MEMBER].astype("u4") | part[GROUP, 2 * MEMBER + 1].astype("u4") << np.uint32(16)
            for part in rows
        ]
    ).reshape(-1)
    turned = rows.transpose(0, 2, 1)
    wanted = np.stack(
        [
            part[GROUP, 2 * MEMBER].astype("u4") | part[GROUP, 2 * MEMBER + 1].astype("u4") << np.uint32(16)
            for part in turned
        ]
    ).reshape(-1)
    assert run("movmatrix.sync.aligned.m8n8.trans.b16 %x, %a;", [given])[0].tolist() == wanted.tolist()


class TestWmma:
    """Fragments have a layout that the manual leaves open; so matrices are loaded, multiplied and stored."""

    @staticmethod
    def product(
        kind: str, result: str, layouts: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, shared: bool = False
    ) -> np.ndarray:
        """a · b + c, of matrices with rows or columns, by the first three letters of layouts; the fourth is d's."""
        k = a.shape[1]
        shape = f"m16n16k{k}"
        orders = ["row" if letter == "r" else "col" for letter in layouts]
        held = {
            "f16": lambda x: x.astype("f2"),
            "bf16": lambda x: bits16(x, "bf16"),
            "tf32": lambda x: x.astype("f4"),
        }
        padded = []
        for matrix, order in zip((a, b), orders, strict=False):
            lines = held[kind](matrix if order == "row" else matrix.T)
            padded.append(np.ascontiguousarray(np.pad(lines, ((0, 0), (0, 8)))))  # strides that are not the widths
        lines = c if orders[2] == "row" else c.T
        padded.append(np.ascontiguousarray(lines.astype("f4" if result == "f32" else "f2")))
        found = np.zeros((16, 16), padded[2].dtype)
        memory = Memory()
        for array in (*padded, found):
            memory.add(array)
        count = {"a": 8 if kind == "f16" else 4, "c": 8 if result == "f32" else 4}
        sets = {
            name: "{" + ", ".join(f"%{name}{i}" for i in range(count["c" if name in "cd" else "a"])) + "}"
            for name in "abcd"
        }
        types = f"{result}.{result}" if kind == "f16" else f"{result}.{kind}.{kind}.{result}"
        strides = [array.shape[1] for array in padded]
        space, place, stage = ".global", "%p3", ""
        if shared:
            space, place = ".shared", "%l5"
            stage = "mov.u64 %l5, buffer;"
        body = f""".reg .b32 %a<8>, %b<8>, %c<8>, %d<8>; {stage}
            wmma.load.a.sync.aligned.{orders[0]}.{shape}.global.{kind} {sets["a"]}, [%p0], {strides[0]};
            mov.u32 %t0, {strides[1]};
            wmma.load.b.sync.aligned.{orders[1]}.{shape}.{kind} {sets["b"]}, [%p1], %t0;
            wmma.load.c.sync.aligned.{orders[2]}.{shape}.global.{result} {sets["c"]}, [%p2];
            wmma.mma.sync.aligned.{orders[0]}.{orders[1]}.{shape}.{types} {sets["d"]}, {sets["a"]}, {sets["b"]},
            {sets["c"]};
            wmma.store.d.sync.aligned.{orders[3]}.{shape}{space}.{result} [{place}], {sets["d"]}, 16; """
        if shared:
            size = found.nbytes // 32
            body += f"""bar.warp.sync -1; mul.wide.u32 %l6, %index, {size}; add.u64 %l5, %l5, %l6;
                add.u64 %l7, %p3, %l6;"""
            body += " ".join(
                f"ld.shared.u32 %t1, [%l5+{i}]; st.global.u32 [%l7+{i}], %t1;" for i in range(0, size, 4)
            )
        one = kernel(body + " ret;", [], ["u4"] * 4, module=BUFFER)
        one.launch((1,), (32,), [pack(array) for array in (*padded, found)], memory)
        return found if orders[3] == "row" else found.T

    @pytest.mark.parametrize("layouts", ["rrrr", "rcrr", "crrc", "ccrr", "rrcc"])
    @pytest.mark.parametrize(
        ("kind", "k", "result"), [("f16", 16, "f32"), ("f16", 16, "f16"), ("bf16", 16, "f32"), ("tf32", 8, "f32")]
    )
    def test_products(self, kind: str, k: int, result: str, layouts: str) -> None:
        generator = np.random.default_rng(8)
        a, b, c = (generator.integers(-4, 5, size) for size in ((16, k), (k, 16), (16, 16)))
        assert self.product(kind, result, layouts, a, b, c).tolist() == (a @ b + c).tolist()

    def test_shared_memory(self) -> None:
        a = np.arange(256).reshape(16, 16) % 7
        assert self.product("f16", "f32", "rrrr", a, a, a, shared=True).tolist() == (a @ a + a).tolist()

    def test_one_address_for_the_warp(self) -> None:
        body = """mad.wide.u32 %l0, %index, 16, %p0;
            wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {%t0, %t1, %t2, %t3, %t4, %t5, %t6, %t7}, [%l0]; ret;"""
        room = np.zeros(1024, "f4")
        memory = Memory()
        memory.add(room)
        with pytest.raises(Divergence, match="another address than other lanes"):
            kernel(body, [], ["u4"]).launch((1,), (32,), [pack(room)], memory)


@pytest.mark.parametrize(
    "instruction",
    [
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%l0, %l1}, {%l2}, {%l3}, {%l0, %l1}",
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%t0}, {%t0}, {%t0}, {%t0}",
        "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%t0}, {%t0}, {%t0}, {%t0}",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%t0}, {%t0}, {%t0}, {%t0}",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32 {%t0, %t1, %t2, %t3}, {%t0, %t1, %t2, %t3}, {%t0, %t1}, "
        "{%t0, %t1, %t2, %t3}",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%t0}, {%t0}, {%t0}, {%t0}, %t0, 0",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%t0}, [%t1]",
        "ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b6x16_p32 {%t0}, [%t1]",
        "ldmatrix.sync.aligned.m8n8.x1.global.b16 {%t0}, [%l1]",
        "movmatrix.sync.aligned.m8n8.b16 %t0, %t1",
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%t1], {%t0}",
        "wmma.load.a.sync.aligned.row.m32n8k16.global.f16 {%t0}, [%l0]",
        "wmma.load.a.sync.aligned.row.m16n16k8.global.f16 {%t0}, [%l0]",
        "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%t0}, {%t0}, {%t0}, {%t0}",
        "wgmma.fence.sync.aligned",
    ],
)
def test_unknown_ones_are_named(instruction: str) -> None:
    with pytest.raises(UnknownInstruction) as error:
        run(f"{instruction}; mov.u32 %x, 0;")
    assert f"({instruction}): unknown instruction {instruction.split()[0]}" in str(error.value)
