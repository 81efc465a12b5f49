"""Attachments of a message: a file, or a location."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import Attribute, field, frozen

from twdm_async._json import Json, is_array, is_object
from twdm_async._numbers import checked_number
from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_characters
from twdm_async.models.convert import ID, OBJECT, TEXT, Kind, at, converter, found


@frozen(kw_only=True)
class MessageMedia:
    """A file that is attached to a message, as the page *GET direct_messages/events/show* shows it.

    It can be downloaded only with the keys of one of the two people in the conversation:
    :meth:`~twdm_async.resources.direct_messages.DirectMessages.download`.

    Args:
        id: its media id.
        kind: ``"photo"``, ``"animated_gif"`` or ``"video"``.
        url: the address (https) of the file or, for a film, of its first picture.
        video_info: for a film, its length and the addresses of its files, in the API's own shape.
        extra: everything else the API said, in its own shape.
    """

    id: str = field(metadata=at(ID, "media", "id_str", also=("media", "id")))
    kind: str | None = field(default=None, metadata=at(TEXT, "media", "type"))
    url: str | None = field(default=None, metadata=at(TEXT, "media", "media_url_https", also=("media", "media_url")))
    video_info: Mapping[str, Any] | None = field(default=None, hash=False, metadata=at(OBJECT, "media", "video_info"))
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False)


def _degrees(_: object, attribute: Attribute[float], value: float) -> None:
    most = 180 if attribute.name == "longitude" else 90
    checked_number(value, attribute.name, -most, most, "number of degrees")


@frozen(kw_only=True)
class SharedCoordinate:
    """A point on the map (page *Attaching location*).

    Args:
        longitude: degrees east, from -180 to 180.
        latitude: degrees north, from -90 to 90.
        extra: the whole attachment, as the API showed it; empty for an attachment that is to be sent.

    Raises:
        InvalidInput: `longitude` or `latitude` is not a number in its range.
    """

    longitude: float = field(validator=_degrees, repr=False)
    latitude: float = field(validator=_degrees, repr=False)
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False, eq=False)


def _place_id(_: object, attribute: Attribute[str], value: str) -> None:
    if not checked_characters(value, attribute.name).isalnum() or not value.isascii():
        raise InvalidInput(parameter=attribute.name, problem="must be a place's id: ASCII letters and digits")


@frozen(kw_only=True)
class SharedPlace:
    """A place that the API knows by an id (page *Attaching location*).

    Args:
        id: the place's id, such as ``"df51dec6f4ee2b2c"``.
        extra: the whole attachment, as the API showed it; empty for an attachment that is to be sent.

    Raises:
        InvalidInput: `id` does not consist of ASCII letters and digits.
    """

    id: str = field(validator=_place_id)
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, hash=False, eq=False)


Attachment = MessageMedia | SharedCoordinate | SharedPlace


def _read(attachment: Json) -> Attachment:
    if is_object(attachment) and attachment.get("type") == "media":
        media: MessageMedia = converter.structure(attachment, MessageMedia)
        return media
    point = found(attachment, "location", "shared_coordinate", "coordinates", "coordinates")
    if is_array(point) and len(point) == 2:
        return SharedCoordinate(longitude=point[0], latitude=point[1], extra=attachment)
    return SharedPlace(id=found(attachment, "location", "shared_place", "place", "id"), extra=attachment)


def attachment_json(attachment: Attachment) -> Json:
    """Return `attachment` as the API writes it."""
    match attachment:
        case MessageMedia():
            return converter.unstructure(attachment)
        case SharedCoordinate():
            point = {"type": "Point", "coordinates": [attachment.longitude, attachment.latitude]}
            location: Json = {"type": "shared_coordinate", "shared_coordinate": {"coordinates": point}}
        case SharedPlace():
            location = {"type": "shared_place", "shared_place": {"place": {"id": attachment.id}}}
    return attachment.extra or {"type": "location", "location": location}


ATTACHMENT: Final = Kind(_read, attachment_json)
"""The kind of an attachment. An attachment of an unknown type stays in the message's ``extra``."""
