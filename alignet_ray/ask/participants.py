"""Who takes part: names of participants, personal links, and what recruiting services pass along."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from alignet_ray.ask.study_file import Person, Refused, StudyFile

NAME_PARAMETERS = ("participant", "PROLIFIC_PID", "workerId")
"""Parameters of the address that name the participant: our own, Prolific's, and Mechanical Turk's."""

ORIGIN_PARAMETERS = ("STUDY_ID", "SESSION_ID", "assignmentId", "hitId")
"""Parameters of Prolific and Mechanical Turk that are kept beside the name."""

PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
"""What Mechanical Turk gives as `assignmentId` to somebody who only previews a task."""

NAME = re.compile(r"[\w.@+-]{1,100}")
"""What a participant's name may be."""

KEY_BYTES = 12
"""Bytes of a personal link's key."""


def enter(study: StudyFile, parameters: Mapping[str, str], key: str = "", session: str = "") -> tuple[Person, str]:
    """Let somebody take part, or come back.

    Args:
        study: the file of the study.
        parameters: those of the address that brought them.
        key: the key of a personal link; "" without one.
        session: the secret of a browser that was here before; "" for a new one.

    Returns:
        The person, and the secret of the browser's session.

    Raises:
        Refused: no personal link where one is needed, a wrong key, a name that is none, or another browser's name.
        NotSaved: the disk is full.
    """
    name = given_name(parameters)
    if name and not NAME.fullmatch(name):
        raise Refused("this participant's name cannot be used: letters, digits and . @ + - _ only")
    if parameters.get("assignmentId") == PREVIEW:
        raise Refused("this is a preview: accept the task first")
    if key and not (name and hmac.compare_digest(key.encode(), link_key(study, name).encode())):
        raise Refused("this personal link is not complete: open it as it was sent to you")

    # A browser that was here before goes on, unless the address names somebody else.
    known = None
    if session:
        known = study.person_of(session)
    if known is not None and (not name or known.name == stored_name(study, name)):
        return known, session
    if study.settings.links_only and not key:
        raise Refused("this study needs the personal link that was sent to you")

    stored = stored_name(study, name)
    if not stored:
        stored = f"anonymous-{secrets.token_hex(4)}"
    before = study.person_named(stored)
    # The key says who it is, from any browser; without one a name alone must not open another person's session.
    if before is not None and key:
        return before, study.renew_session(before.person)
    return study.add_person(stored, origin(study, parameters))


def given_name(parameters: Mapping[str, str]) -> str:
    """The participant's name in the parameters of an address; "" without one."""
    for parameter in NAME_PARAMETERS:
        if parameters.get(parameter):
            return parameters[parameter]
    return ""


def stored_name(study: StudyFile, name: str) -> str:
    """A name as the study stores it: as it is, or as a keyed hash."""
    if not (name and study.settings.hashed):
        return name
    return "h-" + hmac.new(study.secret, b"name:" + name.encode(), hashlib.sha256).hexdigest()[:20]


def link_key(study: StudyFile, name: str) -> str:
    """The key of a participant's personal link, which only this study can make."""
    return hmac.new(study.secret, b"link:" + name.encode(), hashlib.sha256).hexdigest()[: 2 * KEY_BYTES]


def personal_link(study: StudyFile, address: str, name: str) -> str:
    """A participant's own address. The key stands behind `#`: browsers never send it, so that no log has it."""
    return f"{address}/?participant={name}#{link_key(study, name)}"


def origin(study: StudyFile, parameters: Mapping[str, str]) -> dict[str, str]:
    """What is kept of a recruiting service's parameters; nothing where names are hashed, as it tells who it was."""
    if study.settings.hashed:
        return {}
    return {name: parameters[name][:100] for name in ORIGIN_PARAMETERS if parameters.get(name)}


def find(study: StudyFile, name: str) -> Person | None:
    """The person of a name, as it was given or as it is stored."""
    return study.person_named(name) or study.person_named(stored_name(study, name))
