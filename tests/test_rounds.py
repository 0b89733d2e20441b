import json

import pytest

from hvsa_cvat.errors import SessionError
from hvsa_cvat.session.rounds import Phase, Round, Session
from hvsa_cvat.types import LabelSet, Sample

SAMPLES = (Sample(4, 0), Sample(1, 2))


def session(rounds_total: int = 2) -> Session:
    return Session("s", "clip", LabelSet(("road", "sky")), {"seed": 1}, rounds_total)


def asked(s: Session) -> Session:
    """The session from SELECT to the end of the round."""
    s = s.finish_phase(Phase.SELECT, 1.5, queried=SAMPLES, expected_clicks=9.5)
    s = s.finish_phase(Phase.REQUEST, request="r-1")
    s = s.finish_phase(Phase.ANNOTATE, clicks=11)
    return s.finish_phase(Phase.FINETUNE, 60.0)


def predicted(s: Session) -> Session:
    return s.finish_phase(Phase.PREDICT, 2.0).finish_phase(Phase.PUBLISH, 0.5)


def test_round_0_only_predicts_and_publishes() -> None:
    start = session()
    assert start.current == Round(0, Phase.PREDICT)
    after = predicted(start)
    assert after.current == Round(1, Phase.SELECT)
    assert after.rounds[0] == Round(0, Phase.DONE, seconds={"predict": 2.0, "publish": 0.5})
    assert start.current == Round(0, Phase.PREDICT)


def test_rounds_run_in_order_until_all_are_done() -> None:
    s = asked(predicted(session()))
    assert s.current == Round(
        1,
        Phase.PREDICT,
        SAMPLES,
        9.5,
        "r-1",
        11,
        {"select": 1.5, "request": 0.0, "annotate": 0.0, "finetune": 60.0},
    )
    s = predicted(s)
    assert (s.current.number, s.current.phase, s.done) == (2, Phase.SELECT, False)
    s = predicted(asked(s))
    assert s.done
    assert len(s.rounds) == 3
    assert s.clicks == 22
    assert s.queried == SAMPLES * 2


def test_more_rounds_follow_the_last_one() -> None:
    done = predicted(asked(predicted(session(1))))
    more = done.extended(3, {"seed": 2}, predict_again=False)
    assert more.rounds == (*done.rounds, Round(2, Phase.SELECT))
    assert (more.rounds_total, more.config, more.done) == (3, {"seed": 2}, False)
    again = done.extended(2, {}, predict_again=True)
    assert (again.current.number, again.current.phase) == (1, Phase.PREDICT)
    assert predicted(again).current == Round(2, Phase.SELECT)
    at_work = predicted(session(1))
    assert at_work.extended(2, {}, predict_again=True).rounds == at_work.rounds
    with pytest.raises(ValueError, match="not more"):
        done.extended(1, {}, predict_again=False)


def test_a_session_without_rounds_ends_with_the_pre_trained_network() -> None:
    assert predicted(session(0)).done


def test_a_round_that_finds_nothing_to_ask_only_predicts() -> None:
    s = predicted(session()).finish_phase(Phase.SELECT, queried=[], expected_clicks=0.0)
    assert (s.current.number, s.current.phase) == (1, Phase.PREDICT)
    s = predicted(s)
    assert (s.current.number, s.current.phase) == (2, Phase.SELECT)
    assert s.clicks == 0


@pytest.mark.parametrize("phase", [p for p in Phase if p is not Phase.PREDICT])
def test_a_phase_out_of_turn_is_refused(phase: Phase) -> None:
    with pytest.raises(SessionError, match=f"stands at predict of round 0, so {phase} cannot"):
        session().finish_phase(phase)


def test_nothing_follows_the_end() -> None:
    with pytest.raises(SessionError, match="done"):
        predicted(session(0)).finish_phase(Phase.DONE)


def test_a_phase_makes_what_it_makes() -> None:
    s = predicted(session())
    with pytest.raises(ValueError, match="select makes"):
        s.finish_phase(Phase.SELECT)
    with pytest.raises(ValueError, match="predict makes"):
        session().finish_phase(Phase.PREDICT, clicks=3)


def test_sessions_survive_json() -> None:
    for s in (session(), asked(predicted(session())), predicted(asked(predicted(session(1))))):
        assert Session.from_json(json.loads(json.dumps(s.to_json()))) == s


def test_rounds_have_no_gap() -> None:
    with pytest.raises(ValueError, match="without a gap"):
        Session("s", "clip", LabelSet(("road",)), {}, 1, (Round(1, Phase.SELECT),))
    with pytest.raises(ValueError, match="not be negative"):
        session(-1)
