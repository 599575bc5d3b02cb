"""A stream of one's own: continues a WAV file (or silence), a little hotter after five seconds.

    python3 session.py ws://127.0.0.1:8420/v1/sessions out.wav [prompt.wav]

Needs `pip install websockets`, and `[sessions] max` in the server's configuration. docs/protocol.md,
"Sessions", is the whole contract.
"""

import asyncio
import json
import struct
import sys
import wave

import websockets

SECONDS = 10


async def main(url, out_path, prompt_path=None):
    start = {"request": "start", "seed": 7, "format": "s16", "budget_s": SECONDS}
    prompt = b""
    if prompt_path:
        with wave.open(prompt_path) as file:
            assert (file.getnchannels(), file.getsampwidth()) == (1, 2), "mono, 16 bit"
            rate_hz = file.getframerate()
            prompt = file.readframes(file.getnframes())[-2 * 5 * rate_hz :]
        start["prompt"] = {"format": "s16", "rate_hz": rate_hz, "n_bytes": len(prompt)}
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps(start))
        for at in range(0, len(prompt), 65536):
            await socket.send(prompt[at : at + 65536])
        hello = json.loads(await socket.recv())
        if hello["event"] != "hello":
            sys.exit(hello["reason"])
        with wave.open(out_path, "wb") as file:
            file.setparams((1, 2, hello["sample_rate_hz"], 0, "NONE", ""))
            async for message in socket:
                if isinstance(message, str):
                    print(message)
                    continue
                kind, _, n_samples, sequence = struct.unpack_from("<BBHQ", message)
                if kind == 1:
                    file.writeframes(message[12 : 12 + 2 * n_samples])
                if sequence * n_samples == 5 * hello["sample_rate_hz"]:
                    await socket.send(json.dumps({"request": "change", "temperature": 1.05}))


asyncio.run(main(*sys.argv[1:]))
