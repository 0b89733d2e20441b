"""Who asks, where, and how lists are read."""

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import NotFound, Refused, Unauthorized
from tests.contract.place import Json, Place


def test_the_server_tells_its_version(client: CvatClient) -> None:
    parts = client.get("server/about")["version"].split(".")
    assert client.version() == (int(parts[0]), int(parts[1]))


def test_a_token_and_a_password_are_the_same_user(client: CvatClient, place: Place) -> None:
    if place.password is None:
        pytest.skip("CVAT_USER and CVAT_PASSWORD are not set")
    with place.client(place.password) as session:
        me = session.get("users/self")
        assert (me["id"], me["username"]) == (client.me()["id"], client.me()["username"])
        assert me["groups"] == client.me()["groups"]


def test_a_wrong_password_is_unauthorized(place: Place) -> None:
    with (
        place.client(Credentials(user="hvsa-nobody", password="wrong")) as stranger,
        pytest.raises(Unauthorized),
    ):
        stranger.get("users/self")


def test_a_token_tells_what_it_may(client: CvatClient, place: Place) -> None:
    if place.agent.token is None:
        pytest.skip("no token is used")
    token = client.get("auth/access_tokens/self")
    assert token["read_only"] is False
    assert "expiry_date" in token


def test_a_member_has_a_role(client: CvatClient, place: Place) -> None:
    if place.address.organization is None:
        pytest.skip("CVAT_ORGANIZATION is not set")
    me = client.me()
    found = client.rows("memberships", user=me["username"])
    roles = [row["role"] for row in found if row["user"]["id"] == me["id"]]
    assert roles in (["owner"], ["maintainer"], ["supervisor"])


def test_a_wrong_token_is_unauthorized(place: Place) -> None:
    with place.client(Credentials(token="not.a-token")) as stranger, pytest.raises(Unauthorized):
        stranger.get("users/self")


def test_users_are_found_by_name(client: CvatClient, place: Place) -> None:
    if place.address.organization is None:
        pytest.skip("the personal space lists only users without organization")
    me = client.me()
    found = client.rows("users", search=me["username"])
    assert (me["id"], me["username"]) in [(row["id"], row["username"]) for row in found]


def test_an_unknown_organization_is_not_found(place: Place) -> None:
    nowhere = Address(place.address.url, "hvsa-no-such-organization")
    with CvatClient(nowhere, place.agent) as lost, pytest.raises(NotFound):
        lost.get("tasks")


def test_tasks_belong_to_the_named_organization_alone(place: Place, images: Json) -> None:
    """Without a name the personal space is meant."""
    if place.address.organization is None:
        pytest.skip("CVAT_ORGANIZATION is not set")
    with CvatClient(Address(place.address.url), place.agent) as personal:
        assert images["id"] not in {task["id"] for task in personal.rows("tasks")}


def test_lists_come_in_pages(client: CvatClient, images: Json) -> None:
    first = client.get("jobs", task_id=images["id"], page_size=1)
    assert (first["count"], len(first["results"]), first["previous"]) == (2, 1, None)
    assert "page=2" in first["next"]
    last = client.get("jobs", task_id=images["id"], page_size=1, page=2)
    assert last["next"] is None
    assert last["results"] != first["results"]
    with pytest.raises(NotFound):
        client.get("jobs", task_id=images["id"], page_size=1, page=3)


def test_an_unknown_query_parameter_is_ignored(client: CvatClient, images: Json) -> None:
    """A misspelt filter returns everything, so every filter that we use has a test."""
    jobs = client.rows("jobs", task_id=images["id"], no_such_parameter="x")
    assert len(jobs) == 2


def test_an_unknown_variable_in_a_filter_is_refused(client: CvatClient, images: Json) -> None:
    with pytest.raises(Refused):
        client.get("jobs", filter={"==": [{"var": "subset"}, "x"]})


@pytest.mark.parametrize("path", ["projects", "tasks", "jobs", "issues", "webhooks", "guides"])
def test_what_does_not_exist_is_not_found(client: CvatClient, path: str) -> None:
    with pytest.raises(NotFound):
        client.get(f"{path}/2000000000")
