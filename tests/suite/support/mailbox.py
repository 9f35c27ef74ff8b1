"""A mail server for tests: keeps what it accepts, one file a mail, in the order of arrival.

mailbox.py FOLDER [--clear | --tls] [--user USER --password PASSWORD] [--size BYTES]

FOLDER holds server.pem and server.key. The file `replies` there, read anew each time, makes it refuse: each line is
WHERE, PART and REPLY, separated by tabs; WHERE is rcpt or data, and the reply is given when PART is in the address or the
mail. What is said is logged to `log`. Standard input has the orders, a line each: `begin` to listen, `end` not to; each is
answered with the port when it's done. It ends when standard input does.
"""

import argparse
import asyncio
import json
import logging
import pathlib
import socket
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

options = argparse.ArgumentParser()
options.add_argument("folder", type=pathlib.Path)
options.add_argument("--clear", action="store_true")
options.add_argument("--tls", action="store_true")
options.add_argument("--user")
options.add_argument("--password")
options.add_argument("--size", type=int)
options = options.parse_args()

logging.basicConfig(filename=options.folder / "log", level=logging.DEBUG)


def refusal(where, text):
    rules = options.folder / "replies"
    for line in rules.read_text().splitlines() if rules.exists() else []:
        at, part, reply = line.split("\t")
        if at == where and part in text:
            return reply
    return None


class Mailbox:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        reply = refusal("rcpt", address)
        if reply is None:
            envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_DATA(self, server, session, envelope):
        reply = refusal("data", envelope.content.decode("utf-8", "replace"))
        if reply is None:
            stem = options.folder / "mails" / f"{len(list((options.folder / 'mails').glob('*.eml'))):03}"
            stem.with_suffix(".eml").write_bytes(envelope.content)
            about = {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "hello": session.host_name,
                "tls": session.ssl is not None or options.tls,
                "login": bool(session.authenticated),
            }
            stem.with_suffix(".json").write_text(json.dumps(about))
        return reply or "250 OK"


def log_in(server, session, envelope, mechanism, data):
    right = (data.login, data.password) == (options.user.encode(), options.password.encode())
    # An unkind server: its answer repeats the password.
    message = None if right else f"535 5.7.8 no, not {data.password.decode()}"
    return AuthResult(success=right, handled=False, message=message)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(options.folder / "server.pem", options.folder / "server.key")
settings = {}
if options.user:
    settings |= {"authenticator": log_in, "auth_required": True, "auth_require_tls": not options.tls}
if not options.tls and not options.clear:
    settings |= {"tls_context": context, "require_starttls": True}
if options.size:
    settings["data_size_limit"] = options.size


async def serve():
    loop = asyncio.get_running_loop()
    # Bound the whole time, so that nobody else gets the port while nothing listens there.
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    server = None
    while order := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if order == "begin":
            server = await loop.create_server(
                lambda: SMTP(Mailbox(), hostname="localhost", loop=loop, **settings),
                *place.getsockname(),
                ssl=context if options.tls else None,
            )
        else:
            server.close()
            await server.wait_closed()
        print(place.getsockname()[1], flush=True)


asyncio.run(serve())
