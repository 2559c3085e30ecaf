"""What the Hub's client raises, as one sentence with the mend."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llmrec.errors import LLMRecError, RunError
from llmrec.printing import one_line

_OFFLINE = "HF_HUB_OFFLINE is set and {} is not in the Hub's cache here; unset it, or give {}."
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]  # of the HTTP client that huggingface_hub happens to use


@contextlib.contextmanager
def one_sentence(repository: str, revision: str | None, *, instead: str = "a run folder") -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence with the mend.

    Args:
        repository: its name, for the sentence.
        revision: that was asked for.
        instead: what may be given in its place where there is no Hub.

    Raises:
        RunError: in place of whatever the client raised.
    """
    try:
        yield
    except HFValidationError as error:
        raise RunError(
            f"{repository!r} is not a Hub id; write it as USER/NAME ({' '.join(str(error).split())})."
        ) from None
    except RevisionNotFoundError:
        raise RunError(f"The Hub repository {repository} has no revision {revision!r}.") from None
    except GatedRepoError:
        raise RunError(
            f"The Hub repository {repository} is gated; ask for access on its page, then try again."
        ) from None
    except (RepositoryNotFoundError, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            raise RunError(_OFFLINE.format(repository, instead)) from None
        raise RunError(_not_there(repository)) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 404):
            raise RunError(_not_there(repository)) from None
        if status == 429:
            raise RunError(
                f"The Hub has had too many requests from here and refuses {repository}; try again in some minutes."
            ) from None
        if status == 403:
            raise RunError(
                f"Your Hub login may not write to {repository}; use your own name or --create-pr."
            ) from None
        raise RunError(f"The Hub answered {status} for {repository}; nothing was changed, try again later.") from None
    except LLMRecError:
        raise
    except OfflineModeIsEnabled:
        raise RunError(_OFFLINE.format(repository, instead)) from None
    except (OSError, _HTTP_ERROR) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise  # of the disk here, which the command line tells by itself
        raise RunError(f"The Hub cannot be reached ({one_line(error, 160)}); nothing was changed.") from None
    except Exception as error:  # of the Hub's client: an answer that it cannot read, a transfer that broke off
        raise RunError(
            f"The Hub's client failed on {repository} ({type(error).__name__}: {one_line(error, 160)}); try "
            "again, or update huggingface_hub."
        ) from error


def _not_there(repository: str) -> str:
    return (
        f"The Hub repository {repository} does not exist, or your login may not see it; check the name and log in "
        "with `hf auth login` (or set HF_TOKEN)."
    )
