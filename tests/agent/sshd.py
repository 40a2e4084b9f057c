"""An SSH server on loopback, by asyncssh: who has the key in the folder runs commands as this user."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import asyncssh

folder = Path(sys.argv[1])


async def run(process):
    pipe = asyncio.subprocess.PIPE
    with tempfile.TemporaryFile() as sent:
        # All of it before the program runs: asyncssh closes a connection on which something comes after the channel's end,
        # and a program that ends at once leaves its input unread.
        while data := await process.stdin.read(64 * 1024):
            sent.write(data)
        sent.seek(0)
        child = await asyncio.create_subprocess_shell(process.command, stdin=sent, stdout=pipe, stderr=pipe)
        said, errors = await child.communicate()
    process.stdout.write(said)
    process.stderr.write(errors)
    process.exit(child.returncode)


async def main():
    host_key, client_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    client_key.write_private_key(folder / "client_key")
    (folder / "client_key").chmod(0o600)
    client_key.write_public_key(folder / "authorized_keys")
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=str(folder / "authorized_keys"),
        process_factory=run,
        encoding=None,
    )
    print(json.dumps({"port": server.get_port()}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
