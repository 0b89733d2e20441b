import numpy as np

from benchmarks.errors import boundary_steps, time_step


def test_pixels_are_told_apart_by_their_distance_to_a_boundary() -> None:
    truth = np.zeros((1, 26), np.uint8)
    truth[:, 13:] = 1

    # both pixels that touch a boundary are at distance 1
    assert boundary_steps(truth)[0, 13:].tolist() == [0] * 2 + [1] * 3 + [2] * 5 + [3] * 3
    assert boundary_steps(truth)[0, 12::-1].tolist() == boundary_steps(truth)[0, 13:].tolist()


def test_a_frame_of_one_class_has_no_boundary() -> None:
    assert (boundary_steps(np.zeros((2, 3), np.uint8)) == 3).all()


def test_frames_are_told_apart_by_their_distance_to_an_answer() -> None:
    assert [time_step(frame, (10, 40)) for frame in (10, 11, 14, 15, 18, 19, 39)] == [
        *(0, 1, 1, 2, 2, 3),
        1,
    ]
