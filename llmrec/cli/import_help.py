"""What `llmrec data import --help` says of the options for own tables (docs/importing.md says more)."""

from __future__ import annotations

MAP_HELP = (
    "COLUMN=YOURS, for example item_id=asin or items.item_id=id; YOURS is a name, or a place from 1 (table, "
    "repeatable). COLUMN is of events: user_id, item_id, time, kind, value (a rating or an amount), position (from "
    "0), propensity, session, split (train, valid, test), order (within a second); of items: item_id, title, "
    "description, categories, brand, price; of users: user_id, profile. Several of YOURS for profile, categories or "
    "description are put together: --map profile=age --map profile=city."
)
KIND_HELP = (
    "YOURS=KIND, for example view=click or remove=ignore; KIND is impression, click, cart, conversion, rating "
    "or ignore (table)."
)
OPTION_HELP = (
    "NAME=VALUE of the importer, for example core=5 (repeatable). Of table: name, domain, language, source, terms, "
    "currency, repeat (allow, exclude), click, conversion (signal rules), default_kind, time_unit (s, ms, us, ns, "
    "min, h, d, excel, mixed), time_format (dmy, mdy, ymd or such as %d.%m.%Y), category_separator, "
    "unknown_items (refuse, drop, add)."
)
MISSING_HELP = (
    "Words that stand for a missing value, divided by commas, instead of nan, NULL, None, N/A, - ...; '' for none "
    "(table)."
)
ORDER_HELP = (
    "file: of events at one time the earlier in the file came first; without a column of times this order is all "
    "there is (table)."
)
ACCEPT_HELP = (
    "Take tables that look wrong as a whole: times out of all years, a user for every event, categories that no two "
    "items share (table)."
)
