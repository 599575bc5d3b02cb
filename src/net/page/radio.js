// A station, heard: it goes on whoever listens, so a connection that breaks is made again.

import { counters, Receiver } from "./receiver.js";

const SUBPROTOCOL = "longwave.v1.mulaw";
const REPORT_MS = 5000;
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000, 15000];
/** The station is not there any more. */
const CLOSE_OFF_AIR = 4002;
/** No packet for so long: the connection is dead whatever the socket believes. */
const SILENCE_MS = 10000;

export class Radio extends Receiver {
  onAir = "On the air";
  attempt = 0;
  reported = 0;

  connect() {
    this.say("connecting", "Connecting");
    this.socket = this.dial(this.station.stream, [SUBPROTOCOL]);
    clearInterval(this.watch);
    this.watch = setInterval(() => this.tend(), REPORT_MS);
  }

  onHello(hello) {
    this.attempt = 0;
    super.onHello(hello);
  }

  retirePlayer() {
    super.retirePlayer();
    this.reported = 0;
  }

  /** Every few seconds: tell the server how we fare, and see whether it still speaks. */
  tend() {
    if (performance.now() - this.lastHeard > SILENCE_MS) return this.socket.close();
    if (this.socket.readyState !== WebSocket.OPEN || !this.player) return;
    const whole = (ms) => Math.max(0, Math.round(ms));
    this.socket.send(
      JSON.stringify({
        request: "report",
        n_underruns: Math.min(1000, counters.underruns - this.reported),
        buffered_ms: whole(counters.bufferedMs),
        jitter_buffer_ms: whole(counters.targetMs),
        latency_ms: whole(counters.latencyMs),
      }),
    );
    this.reported = counters.underruns;
  }

  onClose({ code }) {
    clearInterval(this.watch);
    this.player?.port.postMessage({ isEnded: true });
    if (code === CLOSE_OFF_AIR) return this.leave();
    const base = BACKOFF_MS[Math.min(this.attempt++, BACKOFF_MS.length - 1)];
    const pause = base * (0.75 + Math.random() / 2);
    const why = this.farewell ?? (code === 1006 ? "the connection broke" : `closed with code ${code}`);
    this.say("waiting", `Off the air: ${why}. Trying again in ${Math.ceil(pause / 1000)} s`, true);
    this.retry = setTimeout(() => {
      counters.reconnects++;
      this.connect();
    }, pause);
  }

  async close() {
    clearInterval(this.watch);
    clearTimeout(this.retry);
    await super.close();
  }
}
