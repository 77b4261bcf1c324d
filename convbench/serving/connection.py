"""The little of HTTP/1.1 that a load generator needs: connections that are kept, one request after another on each."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from convbench.errors import UsageError

BACKLOG_S = 60.0  # for an answer, after which a request has failed
ANSWER_BYTES = 2**29  # that are read of one
JSON_BYTES = 2**20  # of one that is parsed: a description, an error


class NotHttp(ConnectionError):
    """An answer outside the subset of HTTP/1.1 that is read here."""


@dataclass
class Connections:
    """Connections to one server; each request takes an idle one or opens another."""

    host: str
    port: int
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def request(
        self, method: str, path: str, body: bytes = b"", header: str = "", most: int = ANSWER_BYTES
    ) -> tuple[int, bytes]:
        """Status and body, of at most ``most`` bytes.

        Raises OSError, LimitOverrunError or IncompleteReadError where the connection fails.
        """
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Length: {len(body)}\r\n{header}\r\n"
        )
        while True:
            kept = bool(self.idle)
            reader, writer = self.idle.pop() if kept else await asyncio.open_connection(self.host, self.port)
            try:
                async with asyncio.timeout(BACKLOG_S):
                    writer.write(head.encode() + body)
                    await writer.drain()
                    status, length, stays = _head(await reader.readuntil(b"\r\n\r\n"), most)
                    content = await reader.readexactly(length)
            except NotHttp:
                writer.close()
                raise
            except (ConnectionError, asyncio.IncompleteReadError):
                writer.close()
                if kept:
                    continue  # the server had closed it in the meantime
                raise
            except BaseException:
                writer.close()
                raise
            if stays:
                self.idle.append((reader, writer))
            else:
                writer.close()
            return status, content

    async def ask(self, method: str, path: str) -> Any:
        """JSON. Raises UsageError where there is no such server or no such thing."""
        try:
            status, content = await self.request(method, path, most=JSON_BYTES)
            answer = json.loads(content)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise UsageError(f"no answer from http://{self.host}:{self.port}: {error or 'timeout'}") from None
        except (ValueError, RecursionError):
            raise UsageError(f"http://{self.host}:{self.port} does not speak the KServe v2 protocol") from None
        if status != 200:
            raise UsageError(f"http://{self.host}:{self.port}{path}: {said(answer) or f'status {status}'}")
        return answer

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()
        self.idle.clear()


def error_of(content: bytes) -> str:
    """Error text in the body of an answer, or where it has none the first of its bytes."""
    try:
        return (said(json.loads(content)) if len(content) <= JSON_BYTES else None) or repr(content[:80])
    except (ValueError, RecursionError):
        return repr(content[:80])


def said(answer: Any) -> str | None:
    """Error text in a server's answer, shortened, without control characters; None if there is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return "".join(sign if sign.isprintable() else "?" for sign in error[:200]) if isinstance(error, str) else None


def _head(head: bytes, most: int) -> tuple[int, int, bool]:
    """Status of an answer, size of its body, and True if the connection stays open. Raises NotHttp."""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    version, _, rest = first.partition(" ")
    status, length = rest[:3], headers.get("content-length", "0")
    if not (version.startswith("HTTP/1.") and status.isdecimal() and length.isdecimal() and len(length) < 12):
        raise NotHttp("the answer is not HTTP/1.1")
    if "transfer-encoding" in headers:
        raise NotHttp("the answer comes in chunks, which are not read here")
    if int(length) > most:
        raise NotHttp(f"the answer has {length} bytes: at most {most} are read")
    return int(status), int(length), headers.get("connection") != "close"


def to(address: str) -> Connections:
    """Connections to an address such as http://127.0.0.1:8000. Raises UsageError for another kind of address."""
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.scheme == "http" and parts.hostname and parts.path in ("", "/"):
            return Connections(parts.hostname, parts.port or 80)
    except ValueError:
        pass  # not a port
    raise UsageError(f"'{address}' is not an address such as http://127.0.0.1:8000")
