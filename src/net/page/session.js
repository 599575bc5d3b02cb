// A stream of the listener's own: it is drawn for nobody else, and ends when this page leaves it.

import { counters, packetOf, Receiver } from "./receiver.js";

/** Between two wishes: the server takes one change after the other, and a hundred messages in ten seconds. */
const BETWEEN_WISHES_MS = 400;
/** Of a prompt, sent at a time: the server takes messages of twice that. */
const PIECE_LEN = 128 * 1024;

export class Session extends Receiver {
  onAir = "A stream of your own";
  // After a pause the server sends at once what it had drawn: a second of sound, and none is left out.
  surplusMs = 3000;
  /** What is wished and was not asked for yet: a change, a new past, a branch. */
  wish = {};
  past = null;
  branchSeed = null;
  isAnswerDue = false;
  isPaused = false;

  /** `tell` is told what has come of a wish, `onEnd` when the server ends the stream, and why. */
  constructor(station, volume, { tell, onEnd, ...words }) {
    super(station, volume, words);
    this.tell = tell;
    this.onEnd = onEnd;
  }

  connect() {
    this.say("connecting", "Asking for a stream of your own");
    this.socket = this.dial("v1/sessions");
    this.ask({ request: "start", model: this.station.model.name });
  }

  /** Says it as soon as the socket is open. */
  ask(request, socket = this.socket) {
    const send = () => socket.send(JSON.stringify(request));
    if (socket.readyState === WebSocket.CONNECTING) socket.addEventListener("open", send, { once: true });
    else if (socket.readyState === WebSocket.OPEN) send();
  }

  onHello(hello) {
    super.onHello(hello);
    this.pursue();
  }

  /** Draws otherwise: `seed`, `temperature`, … of docs/protocol.md. Later wishes come after or over earlier ones. */
  change(wish) {
    Object.assign(this.wish, wish);
    this.pursue();
  }

  /** Gives the stream a new past. */
  prime(prompt) {
    this.past = prompt;
    this.pursue();
  }

  /** Goes on with the same past and another seed. */
  branchOff(seed) {
    this.branchSeed = seed;
    this.pursue();
  }

  /** Asks for the next thing that is wished, once what was asked before has come true. */
  pursue() {
    if (!this.hello || this.isAnswerDue || this.isPaused) return;
    this.isAnswerDue = true;
    if (Object.keys(this.wish).length > 0) {
      this.ask({ request: "change", ...this.wish });
      this.wish = {};
    } else if (this.past) {
      this.sendPrompt(this.past);
      this.past = null;
    } else if (this.branchSeed) {
      this.openBranch(this.branchSeed);
      this.branchSeed = null;
    } else {
      this.isAnswerDue = false;
    }
  }

  /** What was asked for is so, or was refused. */
  onAnswer(answer) {
    this.tell(answer);
    setTimeout(() => {
      this.isAnswerDue = false;
      this.pursue();
    }, BETWEEN_WISHES_MS);
  }

  onChanged(changed) {
    super.onChanged(changed);
    this.onAnswer(changed);
  }

  sendPrompt({ samples, rateHz }) {
    const { buffer, byteLength: n_bytes } = samples;
    this.ask({ request: "prime", prompt: { format: "f32", rate_hz: rateHz, n_bytes } });
    for (let at = 0; at < n_bytes; at += PIECE_LEN) this.socket.send(buffer.slice(at, at + PIECE_LEN));
  }

  async pause() {
    if (this.branch) return; // it is heard in a moment, and not if the first stream stands still
    this.isPaused = true;
    this.ask({ request: "pause" });
    this.say("paused", "Paused");
    this.fadeTo(0);
    await new Promise((done) => setTimeout(done, 100));
    if (this.isPaused && !this.isClosed) await this.context.suspend();
  }

  /** Plays what is here already, and asks for more when that is nearly over: see `onStats`. */
  async resume() {
    this.isPaused = false;
    this.wantsMore = true;
    await this.context.resume();
    this.fadeTo(this.volume);
    this.say("buffering", "Going on");
    this.pursue();
  }

  onStats(stats) {
    super.onStats(stats);
    if (this.wantsMore && stats.bufferedMs <= stats.targetMs) {
      this.wantsMore = false;
      this.ask({ request: "resume" });
    }
  }

  /**
   * A branch is a second session, which begins where the first has been drawn to. The first is heard up to
   * there, so that nothing is missing between them.
   */
  openBranch(seed) {
    const socket = new WebSocket(this.socket.url);
    socket.binaryType = "arraybuffer";
    const branch = { socket, packets: [] };
    this.branch = branch;
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) return branch.packets.push(data);
      const event = JSON.parse(data);
      if (event.event === "closing") branch.farewell = event.reason;
      if (event.event !== "hello") return;
      branch.hello = event;
      this.takeBranch();
    };
    socket.onclose = () => {
      this.branch = null;
      this.onAnswer({ refusal: branch.farewell ?? "no second session can be had now" });
    };
    this.ask({ request: "start", branch_of: this.hello.session, seed }, socket);
  }

  onPacket(packet) {
    super.onPacket(packet);
    this.takeBranch();
  }

  /** The first stream has been heard up to where the branch begins: from here on the branch is it. */
  takeBranch() {
    if (!this.branch?.hello) return;
    const { socket, hello, packets } = this.branch;
    const { first_position: first, packet_len: length } = this.hello;
    if (first + this.expected * length < hello.position) return;
    this.branch = null;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close(1000);
    this.socket = this.adopt(socket);
    this.expected = hello.sequence;
    this.hello = counters.hello = hello;
    this.describe(hello);
    for (const data of packets) this.hear(data);
    this.onAnswer({ since: hello.position, branchSeed: hello.seed });
  }

  onClose({ code }) {
    const why = this.farewell ?? (this.hello ? `the connection broke (${code})` : null);
    this.onEnd(why);
  }

  async close() {
    if (this.branch) {
      this.branch.socket.onclose = null;
      this.branch.socket.close(1000);
    }
    await super.close();
  }
}
