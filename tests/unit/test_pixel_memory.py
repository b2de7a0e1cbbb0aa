"""Memory for pixels: taken again, but never while somebody holds it."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from jpeg_preprocess.pixel_memory import PixelMemory


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_holds_is_taken_again():
    memory = PixelMemory()
    first = memory.take((4, 5, 5, 3))
    place = address(first)
    del first
    assert address(memory.take((4, 5, 5, 3))) == place
    assert address(memory.take((2, 5, 5, 3))) == place


def test_a_part_that_somebody_holds_keeps_its_values():
    memory = PixelMemory()
    part = memory.take((4, 2, 2, 3))[1:2]
    part[:] = 7
    memory.take((4, 2, 2, 3))[:] = 9
    assert (part == 7).all()


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=20))
def test_arrays_that_are_held_never_share_memory(steps):
    memory, held = PixelMemory(), []
    for value, (count, keep) in enumerate(steps):
        array = memory.take((count, 2, 2, 3))
        assert array.shape == (count, 2, 2, 3) and array.dtype == np.uint8
        array[:] = value
        if keep:
            held.append((value, array))
        del array
    for value, array in held:
        assert (array == value).all()


def test_threads_that_take_at_once_get_memory_of_their_own():
    memory, taken = PixelMemory(), []
    together = threading.Barrier(8)

    def take():
        together.wait()
        taken.append(memory.take((10, 10)))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({address(array) for array in taken}) == 8
