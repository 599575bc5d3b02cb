"""A complete listener: records a station to a WAV file and accounts for every packet.

    pip install websockets
    python listener.py ws://127.0.0.1:8420/v1/stations/piano/stream 10 piano.wav
"""

import json
import struct
import sys
import wave

from websockets.sync.client import connect

HEADER = struct.Struct("<BBHQ")  # kind, format, n_samples, sequence: docs/protocol.md
PACKET, S16 = 1, 2


def main(url, seconds, path):
    with connect(url, subprotocols=["longwave.v1.s16"]) as socket, wave.open(path, "wb") as wav:
        hello = json.loads(socket.recv())
        print(f"{hello['station']} by {hello['model']['name']}, seed {hello['seed']}")
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(hello["sample_rate_hz"])
        wanted = int(seconds) * hello["sample_rate_hz"]
        sequence = hello["sequence"]
        while wav.tell() < wanted:
            message = socket.recv()
            if isinstance(message, str):
                print(message)
                event = json.loads(message)
                if event["event"] == "lost":
                    sequence += event["n_packets"]
                continue
            kind, format, n_samples, number = HEADER.unpack_from(message)
            if (kind, format) != (PACKET, S16):
                continue
            assert number == sequence, f"packet {sequence} is missing"
            sequence += 1
            wav.writeframes(message[HEADER.size :])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: listener.py URL SECONDS FILE.wav")
    main(*sys.argv[1:])
