// The jitter buffer, on the browser's audio thread.
//
// Codes come in by the port as they arrive from the network; sound goes out at the context's rate
// and pace. The buffer starts to play at `target`, grows the target when it runs dry and shrinks
// it slowly while there is plenty. Its fill steers the playing speed by a few tenths of a percent,
// so that neither clock outruns the other. Where sound is missing it fades: nothing ever clicks.
//
// Lengths are frames at the stream's rate unless a name says otherwise.

const HALF = 16; // taps of the interpolation filter on either side
const PHASES = 256;
const FADE_MS = 5;
const FLOOR_MS = 120; // the target shrinks no further
const CEILING_MS = 3000; // and grows no further
const CAPACITY_S = 8;
const DEAD_BAND_S = 0.03; // within this of the target the speed is left alone
const MAX_CORRECTION = 0.003;
const CORRECTION_PER_S = 0.05; // 100 ms too much: 0.5 % faster, if that were allowed
const SMOOTHING_S = 2;
const WINDOW_S = 10; // how long the fill must stay ample for the target to shrink
const REPORT_S = 0.05;

/** The value of each mu-law code: docs/model.md, "Codes". */
const VALUES = Float32Array.from({ length: 256 }, (_, code) => {
  const y = (code / 255) * 2 - 1;
  return (Math.sign(y) * (256 ** Math.abs(y) - 1)) / 255;
});

/** A windowed sinc, cut off below the lower of the two Nyquist frequencies; [PHASES + 1, 2 HALF]. */
function filterTable(cutoff) {
  const table = new Float32Array((PHASES + 1) * 2 * HALF);
  for (let phase = 0; phase <= PHASES; phase++) {
    const row = table.subarray(phase * 2 * HALF, (phase + 1) * 2 * HALF);
    let sum = 0;
    for (let tap = 0; tap < 2 * HALF; tap++) {
      const x = tap - (HALF - 1) - phase / PHASES;
      const sinc = x === 0 ? cutoff : Math.sin(Math.PI * x * cutoff) / (Math.PI * x);
      const angle = (Math.PI * x) / HALF;
      const window = Math.abs(x) >= HALF ? 0 : 0.42 + 0.5 * Math.cos(angle) + 0.08 * Math.cos(2 * angle);
      row[tap] = sinc * window;
      sum += row[tap];
    }
    for (let tap = 0; tap < 2 * HALF; tap++) row[tap] /= sum;
  }
  return table;
}

class Player extends AudioWorkletProcessor {
  constructor({ processorOptions: { rateHz, jitterBufferMs, surplusMs } }) {
    super();
    this.rateHz = rateHz;
    this.step = rateHz / sampleRate;
    this.table = filterTable(0.95 * Math.min(1, 1 / this.step));
    this.ring = new Float32Array(2 ** Math.ceil(Math.log2(rateHz * CAPACITY_S)));
    this.fade = this.frames(FADE_MS);
    this.surplus = this.frames(surplusMs); // more than this above the target is skipped
    this.target = this.frames(Math.min(CEILING_MS, jitterBufferMs)); // or it might never be full
    this.written = 0; // frames ever written
    this.read = 0; // where the next frame is read, a fraction
    this.rise = this.fade; // frames of the fade-in after a gap that are written
    this.gain = 0;
    this.isPlaying = false;
    this.isSkipping = false;
    this.isEnded = false;
    this.isRetired = false;
    this.correction = 0;
    this.smoothFill = 0;
    this.lowFill = Infinity;
    this.windowFrames = 0;
    this.sinceReport = 0;
    this.stats = { underruns: 0, played: 0, skipped: 0 };
    this.port.onmessage = ({ data }) => this.hear(data);
  }

  frames(ms) {
    return Math.round((ms * this.rateHz) / 1000);
  }

  get fill() {
    return this.written - this.read;
  }

  hear({ codes, isGap, isEnded, isRetired }) {
    this.isEnded = Boolean(isEnded);
    this.isRetired ||= Boolean(isRetired);
    if (isGap) this.fadeTail();
    if (codes) this.push(codes);
  }

  push(codes) {
    const mask = this.ring.length - 1;
    const room = Math.floor(this.ring.length - this.fill - 2 * HALF);
    const n = Math.min(codes.length, room);
    for (let i = 0; i < n; i++) {
      const gain = this.rise < this.fade ? this.rise++ / this.fade : 1;
      this.ring[this.written++ & mask] = VALUES[codes[i]] * gain;
    }
    this.stats.skipped += codes.length - n;
  }

  /** The stream jumps here: what is not yet played ends softly, what follows begins softly. */
  fadeTail() {
    const mask = this.ring.length - 1;
    const n = Math.max(0, Math.min(this.fade, Math.floor(this.fill) - HALF));
    for (let i = 0; i < n; i++) this.ring[(this.written - 1 - i) & mask] *= i / n;
    this.rise = 0;
  }

  process(_inputs, [[out]]) {
    if (!this.isPlaying && this.fill >= this.target) {
      this.isPlaying = true;
      this.smoothFill = this.fill;
    }
    for (let i = 0; i < out.length; i++) out[i] = this.isPlaying ? this.next() : 0;
    this.steer(out.length);
    this.report(out.length);
    return !this.isRetired;
  }

  next() {
    const left = this.fill - HALF;
    if (left <= 0) return this.starve();
    const goal = this.isSkipping ? 0 : Math.min(1, left / this.fade);
    const slope = this.step / this.fade;
    this.gain += Math.max(-slope, Math.min(slope, goal - this.gain));
    if (this.isSkipping && this.gain <= slope) this.skip();
    const value = this.interpolate() * this.gain;
    this.read += this.step * (1 + this.correction);
    this.stats.played++;
    return value;
  }

  interpolate() {
    const mask = this.ring.length - 1;
    const whole = Math.floor(this.read);
    const phase = (this.read - whole) * PHASES;
    const row = Math.floor(phase);
    const share = phase - row;
    const begin = row * 2 * HALF;
    let low = 0;
    let high = 0;
    for (let tap = 0; tap < 2 * HALF; tap++) {
      const value = this.ring[(whole - (HALF - 1) + tap) & mask];
      low += value * this.table[begin + tap];
      high += value * this.table[begin + 2 * HALF + tap];
    }
    return low + (high - low) * share;
  }

  /** Dry. The fade-out is behind us; wait for a larger buffer. */
  starve() {
    this.isPlaying = false;
    this.gain = 0;
    if (!this.isEnded) {
      this.stats.underruns++;
      this.target = Math.min(this.frames(CEILING_MS), this.target * 1.3 + this.frames(20));
    }
    this.restartWindow();
    return 0;
  }

  /** Far too much, after a stall for example: leave the oldest out. */
  skip() {
    const surplus = Math.max(0, this.fill - this.target);
    this.read += surplus;
    this.stats.skipped += Math.round(surplus);
    this.isSkipping = false;
    this.smoothFill = this.fill;
  }

  steer(n) {
    if (!this.isPlaying) return;
    this.smoothFill += (this.fill - this.smoothFill) * (1 - Math.exp(-n / sampleRate / SMOOTHING_S));
    const errorS = (this.smoothFill - this.target) / this.rateHz;
    const beyond = errorS - Math.max(-DEAD_BAND_S, Math.min(DEAD_BAND_S, errorS));
    const wanted = beyond * CORRECTION_PER_S;
    this.correction = Math.max(-MAX_CORRECTION, Math.min(MAX_CORRECTION, wanted));
    if (this.fill > this.target + this.surplus) this.isSkipping = true;
    this.lowFill = Math.min(this.lowFill, this.fill);
    this.windowFrames += n;
    if (this.windowFrames > WINDOW_S * sampleRate) {
      const spare = this.lowFill - this.frames(FLOOR_MS / 2);
      if (spare > 0) this.target = Math.max(this.target - spare / 10, Math.min(this.target, this.frames(FLOOR_MS)));
      this.restartWindow();
    }
  }

  restartWindow() {
    this.lowFill = Infinity;
    this.windowFrames = 0;
  }

  report(n) {
    this.sinceReport += n;
    if (this.sinceReport < REPORT_S * sampleRate) return;
    this.sinceReport = 0;
    const ms = (frames) => (frames * 1000) / this.rateHz;
    this.port.postMessage({
      ...this.stats,
      isPlaying: this.isPlaying,
      bufferedMs: ms(this.fill),
      targetMs: ms(this.target),
      correctionPpm: this.correction * 1e6,
      written: this.written,
      read: this.read,
    });
  }
}

registerProcessor("longwave-player", Player);
