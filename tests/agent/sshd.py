"""An SSH server on loopback, by asyncssh: who has the key in the folder runs commands as this user."""

import asyncio
import json
import sys
from pathlib import Path

import asyncssh

folder = Path(sys.argv[1])


async def feed(source, sink):
    is_open = True
    while data := await source.read(64 * 1024):
        try:
            sink.write(data)
            await sink.drain()
        except (BrokenPipeError, ConnectionResetError):
            is_open = False  # a program that ends need not have read everything
    if is_open:
        sink.close()


async def run(process):
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_shell(process.command, stdin=pipe, stdout=pipe, stderr=pipe)
    feeding = asyncio.create_task(feed(process.stdin, child.stdin))
    await process.redirect(stdout=child.stdout, stderr=child.stderr)
    status = await child.wait()
    await process.stdout.drain()
    await process.stderr.drain()
    await asyncio.wait([feeding], timeout=5)
    process.exit(status)


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
