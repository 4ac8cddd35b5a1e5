"""Where on a photograph the garment is: what its background does not explain.

The background is modelled by what lies along the border: in each channel of CIELAB a surface of the second degree, so
that it may get darker or change its hue across the photograph, and how far the border's own pixels lie from that. The
surface is fitted by iteratively reweighted least squares (Holland and Welsch 1977, with Cauchy's weights), so that a
garment that reaches the border in a few places is no part of it. A pixel belongs to the garment where its distance
from the surface, as of Mahalanobis (1936) with the border's covariance, is beyond the border's own. GrabCut then
moves its outline to where the colours change.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.opencv import opencv

Floats = NDArray[np.float32]

_ROOM = 1 << 14
"""Pixels from which on a photograph can be smoothed, and its garment's outline refined."""
_BORDER = 0.04
"""Width of the border that shows the background, as a share of the shorter edge."""
_LEAST_SPREAD = 1.0
"""Standard deviation in CIELAB's units that is taken for no difference, whatever the border's own."""
_LEAST_DISTANCE = 3.5
_FAINT = 0.18
"""What differs from the background by less than this share of what the garment does is its shadow."""
_PART = 0.05
"""Least area of a part beside the largest one, as a share of that: a strap counts, a crumb does not."""
_THING = 0.35
"""The same of a part that may well be another garment."""
_GAP = 0.02
"""Most area of a gap within the garment that is closed, as a share of the garment: a handle's stays open."""
_RESTLESS = 3.0
"""Standard deviation of the border in CIELAB's units beyond which a background is not plain."""
_CUT_OFF = 0.1
"""Share of the border that may be garment."""


class Cutout(NamedTuple):
    """Where the garment is, bool (height, width), whether it is darker than its background, and what is doubtful."""

    garment: NDArray[np.bool_]
    darker: bool
    doubts: tuple[str, ...]


def cut_out(photograph: NDArray[np.uint8]) -> Cutout:
    """Return where on a photograph, uint8 (height, width, 3) in OpenCV's order of colours, the garment is.

    The garment is the largest connected part that is not background, and what is not much smaller. All is False where
    there is only background.
    """
    cv2 = opencv()
    room = photograph.size // 3 >= _ROOM
    smooth = cv2.medianBlur(photograph, 5) if room else photograph
    difference, border = _from_background(cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_BGR2Lab))
    edge = difference[border]
    near = np.linalg.norm(edge, axis=1)
    usual = near <= 3 * _spread(near)
    covariance = edge[usual].T @ edge[usual] / usual.sum()
    inverse = np.linalg.inv(covariance + _LEAST_SPREAD**2 * np.eye(3))
    distance = np.sqrt(np.einsum("hwi,ij,hwj->hw", difference, inverse, difference))
    beyond = distance > max(_LEAST_DISTANCE, 1.1 * float(np.quantile(distance[border][usual], 0.99)))
    if beyond.any():
        beyond &= distance > _FAINT * float(np.median(distance[beyond]))
    garment, things = _parts(beyond)
    if garment.any() and room:
        garment, things = _parts(_grown(difference, garment, border & ~beyond))
    doubts = []
    if np.sqrt(np.trace(covariance)) > _RESTLESS:
        doubts.append("its background is not plain")
    if garment[border].mean() > _CUT_OFF:
        doubts.append("what it shows reaches the border")
    if things > 1:
        doubts.append(f"{things} things are on it")
    return Cutout(garment, bool(garment.any() and difference[garment, 0].mean() < 0), tuple(doubts))


def _grown(difference: Floats, garment: NDArray[np.bool_], ground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the garment with its outline where the colours change: GrabCut, by Rother, Kolmogorov and Blake (2004).

    It begins with what is beyond the background as `garment`, and keeps what is surely `ground`.
    """
    cv2 = opencv()
    mask = np.where(garment, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[ground] = cv2.GC_BGD
    flat = np.rint(difference * 2 + 128).clip(0, 255).astype(np.uint8)
    cv2.setRNGSeed(0)  # the same photograph, the same answer
    cv2.grabCut(flat, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    return np.asarray((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD))


def _from_background(colours: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how each pixel of (height, width, 3) differs from the background's surface, and where the border is."""
    height, width = colours.shape[:2]
    depth = max(1, round(_BORDER * min(height, width)))
    border = np.ones((height, width), np.bool_)
    border[depth:-depth, depth:-depth] = False
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(down), down, across, down * across, down**2, across**2], axis=2)
    at, seen = terms[border], colours[border]
    near = np.linalg.norm(seen - np.median(seen, axis=0), axis=1)
    for _ in range(10):
        weighted = at / (1 + (near / _spread(near)) ** 2)[:, None]
        surface = np.linalg.lstsq(weighted.T @ at, weighted.T @ seen, rcond=None)[0]  # the normal equations
        near = np.linalg.norm(seen - at @ surface, axis=1)
    return colours - terms @ surface, border


def _spread(near: Floats) -> float:
    """Return a standard deviation that a few far ones do not change, and at least one unit of CIELAB."""
    return 1.4826 * float(np.median(near)) + 1


def _parts(beyond: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return the garment among what is beyond the background, and how many things there are that may be one."""
    cv2 = opencv()
    mask = beyond.astype(np.uint8)
    if mask.size >= _ROOM:  # remove what is thinner than a garment's own parts, and close what is
        cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
        mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, cross), cv2.MORPH_CLOSE, cross)
    areas, labels = _areas(mask)
    if not len(areas):
        return mask.astype(np.bool_), 0
    garment = np.isin(labels, 1 + np.flatnonzero(areas >= _PART * areas.max()))
    gaps, places = _areas((~garment).astype(np.uint8))
    garment |= np.isin(places, 1 + np.flatnonzero(gaps < _GAP * garment.sum()))
    return garment, int((areas >= _THING * areas.max()).sum())


def _areas(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the area of each connected part of a mask, and in which part each pixel is, from 1, or 0 for none."""
    cv2 = opencv()
    _, labels, found, _ = cv2.connectedComponentsWithStats(mask)
    return found[1:, cv2.CC_STAT_AREA], labels
