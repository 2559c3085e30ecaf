"""The loopback Hub with collections beside it: made by title, filled item by item, as the Hub's addresses have it."""

from __future__ import annotations

import re

from tests.hub.hubserver import Handler, HubError, HubServer


def _told(made):
    owner = made["slug"].split("/")[0]
    return {
        **made,
        "owner": {"name": owner},
        "lastUpdated": "2026-01-01T00:00:00.000Z",
        "theme": "green",
        "upvotes": 0,
        "position": 0,
    }


class CollectingHandler(Handler):
    """Requests below /api/collections; all others are the Hub's."""

    def dispatch(self):
        if not self.path.startswith("/api/collections"):
            return super().dispatch()
        self.hub, self.unread = self.server.hub, True
        try:
            self._collections()
        except HubError as error:
            if self.unread:
                self.body()
            self.reply({"error": error.message}, error.status)

    do_POST = dispatch

    def _collections(self):
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if self.path == "/api/collections":
            asked = self.json()
            slug = (
                f"{asked['namespace']}/{re.sub('[^a-z0-9]+', '-', asked['title'].lower())}-0123456789abcdef01234567"
            )
            if asked["namespace"] != self.user:
                raise HubError(403, "Forbidden")
            there = slug in self.hub.collections
            made = self.hub.collections.setdefault(
                slug, {"slug": slug, "title": asked["title"], "private": asked["private"], "items": []}
            )
            return self.reply(_told(made), 409 if there else 200)
        slug = self.path.removeprefix("/api/collections/").removesuffix("/items")
        made = self.hub.collections.get(slug)
        if made is None:
            raise HubError(404, "Collection not found")
        if slug.split("/")[0] != self.user:
            raise HubError(403, "Forbidden")
        if self.command == "POST":
            item = self.json()["item"]
            if any(item["id"] == one["id"] and item["type"] == one["type"] for one in made["items"]):
                return self.reply({"error": "Item already in collection"}, 409)
            if (item["type"], item["id"]) not in self.hub.repos:
                raise HubError(404, "Repository not found")
            made["items"].append({"_id": str(len(made["items"])), "position": len(made["items"]), **item})
        return self.reply(_told(made))

    do_GET = dispatch


class CollectingHub(HubServer):
    """`collections`: by slug, with the items of each."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.collections = {}
        self.httpd.RequestHandlerClass = CollectingHandler
