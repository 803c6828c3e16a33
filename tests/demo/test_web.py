"""Sockets and requirements of the pages."""

import socket

import pytest

from alignet_ray.demo import web
from alignet_ray.errors import UserError


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server((web.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be used \(.*\): choose another with --port"):
            web.bind(port)


@pytest.mark.parametrize(("port", "host"), [(70_000, web.HOST), (0, "203.0.113.1")])
def test_what_cannot_be_listened_on_is_one_line(port: int, host: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        web.bind(port, host)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    web.require_extra()
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"alignet-ray\[demo\]"):
        web.require_extra()
