// What stations and sessions have in common: packets come by a WebSocket, a jitter buffer on the audio
// thread plays them. The wire format is docs/protocol.md.

const HEADER_LEN = 12;
const KIND_PACKET = 1;
const FORMAT_MULAW = 1;

const FRESH = {
  state: "idle", // idle, connecting, buffering, playing, paused, waiting, suspended, failed
  hello: null,
  packets: 0,
  lost: 0,
  gaps: 0,
  reconnects: 0,
  underruns: 0,
  played: 0,
  skipped: 0,
  bufferedMs: 0,
  targetMs: 0,
  latencyMs: 0,
  correctionPpm: 0,
  position: 0,
  peak: 0,
};

/** What a test or a curious listener can read in the console. */
export const counters = { ...FRESH };
window.longwave = counters;

/** A link that was signed for us opens all that the page asks for. */
function socketUrl(path) {
  const url = new URL(path + location.search, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

/** A packet's number and codes, or nothing if a message is none. */
export function packetOf(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < HEADER_LEN) return null;
  if (view.getUint8(0) !== KIND_PACKET || view.getUint8(1) !== FORMAT_MULAW) return null;
  return { sequence: Number(view.getBigUint64(4, true)), codes: new Uint8Array(buffer, HEADER_LEN) };
}

/** One stream, played. A subclass says where it comes from (`connect`) and what its end means (`onClose`). */
export class Receiver {
  /** More sound than this above the aim is skipped. */
  surplusMs = 1000;

  /** `say` is told the state in words, `describe` what each hello and change says of the stream, `leave` that it is over. */
  constructor(station, volume, { say, describe, leave }) {
    this.station = station;
    this.say = say;
    this.describe = describe;
    this.leave = leave;
    this.volume = volume;
    this.isClosed = false;
  }

  /** Must be called by a click: browsers play nothing else. */
  async open() {
    Object.assign(counters, FRESH);
    this.context = makeContext(this.station.sample_rate_hz);
    this.context.onstatechange = () => this.onState();
    const resumed = this.context.resume();
    await this.context.audioWorklet.addModule("worklet.js");
    if (this.isClosed) return;
    this.gain = new GainNode(this.context, { gain: this.volume });
    this.analyser = new AnalyserNode(this.context, { fftSize: 4096, smoothingTimeConstant: 0.3 });
    this.analyser.connect(this.gain).connect(this.context.destination);
    this.connect();
    await resumed;
  }

  dial(path, protocols = []) {
    const socket = new WebSocket(socketUrl(path), protocols);
    socket.binaryType = "arraybuffer";
    this.lastHeard = performance.now();
    return this.adopt(socket);
  }

  adopt(socket) {
    socket.onmessage = ({ data }) => this.hear(data);
    socket.onclose = (event) => this.isClosed || this.onClose(event);
    return socket;
  }

  hear(data) {
    if (this.isClosed) return;
    this.lastHeard = performance.now();
    if (data instanceof ArrayBuffer) return this.onPacket(packetOf(data));
    const event = JSON.parse(data);
    if (event.event === "hello") this.onHello(event);
    if (event.event === "changed") this.onChanged(event);
    if (event.event === "lost") counters.lost += event.n_packets;
    if (event.event === "closing") this.farewell = event.reason;
  }

  onHello(hello) {
    const isRetuned = this.hello && this.hello.sample_rate_hz !== hello.sample_rate_hz;
    counters.hello = hello;
    this.hello = hello;
    this.farewell = null;
    this.describe(hello);
    if (isRetuned) this.retirePlayer();
    if (!this.player) this.player = this.makePlayer(hello);
    // After a reconnection the stream has gone on without us.
    const isGap = this.expected !== undefined && this.expected !== hello.sequence;
    if (isGap) this.player.port.postMessage({ isGap });
    this.expected = hello.sequence;
    this.say("buffering", "Filling the buffer");
    // Files can be dropped on a page that was never clicked.
    if (navigator.userActivation?.hasBeenActive === false) this.onState();
  }

  onChanged(changed) {
    this.describe(Object.assign(this.hello, changed));
  }

  makePlayer({ sample_rate_hz: rateHz, jitter_buffer_ms: jitterBufferMs }) {
    const player = new AudioWorkletNode(this.context, "longwave-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rateHz, jitterBufferMs, surplusMs: this.surplusMs },
    });
    player.port.onmessage = ({ data }) => this.onStats(data);
    player.onprocessorerror = () => this.fail("The audio thread of this browser failed; reload the page.");
    player.connect(this.analyser);
    return player;
  }

  /** The stream came back at another rate, for which a player is made anew. */
  retirePlayer() {
    this.player.port.onmessage = null;
    this.player.port.postMessage({ isRetired: true });
    this.player.disconnect();
    this.player = null;
  }

  onPacket(packet) {
    if (!packet || !this.player) return;
    const { sequence, codes } = packet;
    const isGap = sequence !== this.expected;
    this.expected = sequence + 1;
    counters.packets++;
    counters.gaps += Number(isGap);
    this.player.port.postMessage({ codes, isGap }, [codes.buffer]);
  }

  onStats({ isPlaying, written, read, ...stats }) {
    Object.assign(counters, stats);
    const { baseLatency = 0, outputLatency = 0 } = this.context;
    counters.latencyMs = counters.bufferedMs + (baseLatency + outputLatency) * 1000;
    if (this.expected !== undefined && this.hello) {
      const { first_position: first, packet_len: length } = this.hello;
      counters.position = Math.round(first + this.expected * length - (written - read));
    }
    if (this.context.state !== "running" || ["waiting", "paused"].includes(counters.state)) return;
    if (isPlaying) this.say("playing", this.onAir);
    else if (counters.state === "playing") this.say("buffering", "The network fell behind; filling the buffer");
  }

  onState() {
    if (this.isClosed || this.context.state === "running" || counters.state === "paused") return;
    this.say("suspended", "The browser holds the sound back; press play again", true);
  }

  fail(sentence) {
    this.say("failed", sentence, true);
  }

  setVolume(volume) {
    this.volume = volume;
    this.fadeTo(volume);
  }

  fadeTo(volume) {
    this.gain?.gain.setTargetAtTime(volume, this.context.currentTime, 0.02);
  }

  /** Fades, then lets everything go. */
  async close() {
    this.isClosed = true;
    this.fadeTo(0);
    this.socket?.close(1000);
    await new Promise((done) => setTimeout(done, 100));
    await this.context?.close();
  }
}

/** At the stream's own rate if the browser allows it: then only drift is left to correct. */
function makeContext(sampleRate) {
  try {
    return new AudioContext({ sampleRate, latencyHint: "balanced" });
  } catch {
    return new AudioContext({ latencyHint: "balanced" });
  }
}
