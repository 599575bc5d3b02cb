// The picture of what is heard.

import { counters } from "./receiver.js";

/** Pauses between drawings; a browser without a graphics card draws on the processor. */
const FRAME_MS = 40;
const CALM_FRAME_MS = 500;

/**
 * Waveform and spectrogram of what is heard.
 *
 * The spectrogram is two sheets side by side that move to the left: a step costs a few columns on
 * one of them, not a drawing of the whole. In a hidden tab nothing is drawn.
 */
export class Scope {
  constructor(waveform, spectrogram) {
    this.wave = waveform.getContext("2d");
    // The one that is written on first.
    this.sheets = [...spectrogram.children].map((canvas) => canvas.getContext("2d"));
    this.theme = matchMedia("(prefers-color-scheme: light)");
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.theme.addEventListener("change", () => this.dress());
    new ResizeObserver(() => this.dress()).observe(spectrogram);
    this.dress();
  }

  dress() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.colours = { panel: colour("--panel"), line: colour("--line"), accent: colour("--accent") };
    for (const { canvas } of [this.wave, ...this.sheets]) {
      canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
      canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    }
    this.palette = palette(this.colours.panel, this.colours.accent, this.theme.matches);
    this.written = 0;
    this.moveSheets();
    this.drawWave(null);
  }

  start(radio) {
    this.radio = radio;
    const frame = (now) => {
      if (this.radio !== radio) return;
      if (radio.analyser) {
        this.drawWave(radio.analyser);
        this.drawSpectrum(radio.analyser, now);
      }
      setTimeout(() => requestAnimationFrame(frame), this.calm.matches ? CALM_FRAME_MS : FRAME_MS);
    };
    requestAnimationFrame(frame);
  }

  stop() {
    this.radio = null;
    this.drawWave(null);
  }

  drawWave(analyser) {
    const { canvas } = this.wave;
    const { width, height } = canvas;
    this.wave.clearRect(0, 0, width, height);
    this.wave.lineWidth = 1.5 * devicePixelRatio;
    this.wave.lineJoin = "round";
    this.wave.strokeStyle = analyser ? this.colours.accent : this.colours.line;
    this.wave.beginPath();
    if (analyser) {
      const values = new Float32Array(analyser.fftSize);
      analyser.getFloatTimeDomainData(values);
      counters.peak = values.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);
      const n = values.length / 4;
      const begin = risingEdge(values, n);
      for (let i = 0; i < n; i++) {
        this.wave.lineTo((i * width) / (n - 1), height * (0.5 - 0.47 * values[begin + i]));
      }
    } else {
      this.wave.moveTo(0, height / 2);
      this.wave.lineTo(width, height / 2);
    }
    this.wave.stroke();
  }

  /** Scrolls at 60 px a second; rows are spaced like notes, an octave as high as the next. */
  drawSpectrum(analyser, now) {
    if (this.written === this.sheets[0].canvas.width) {
      this.sheets.reverse();
      this.written = 0;
    }
    const [sheet] = this.sheets;
    const { width, height } = sheet.canvas;
    const elapsed = Math.min(now - (this.drawn ?? now), 500);
    this.due = (this.due ?? 0) + (elapsed * 60 * devicePixelRatio) / 1000;
    this.drawn = now;
    const step = Math.min(Math.floor(this.due), width - this.written);
    if (step < 1 || height < 1) return;
    this.due -= step;
    const levels = new Uint8Array(analyser.frequencyBinCount);
    analyser.getByteFrequencyData(levels);
    const top = analyser.context.sampleRate / 2;
    const column = sheet.createImageData(step, height);
    const pixels = new Uint32Array(column.data.buffer);
    for (let y = 0; y < height; y++) {
      const hz = top * (60 / top) ** (y / height);
      const bin = (hz / top) * levels.length;
      const low = Math.floor(bin);
      const high = Math.min(low + 1, levels.length - 1);
      const level = levels[low] + (levels[high] - levels[low]) * (bin - low);
      pixels.fill(this.palette[Math.round(level)], y * step, (y + 1) * step);
    }
    sheet.putImageData(column, this.written, 0);
    this.written += step;
    this.moveSheets();
  }

  /** What was written last touches the right edge; the older sheet is joined to its left. */
  moveSheets() {
    const [sheet, older] = this.sheets;
    const share = this.written / Math.max(1, sheet.canvas.width);
    sheet.canvas.style.transform = `translateX(${100 * (1 - share)}%)`;
    older.canvas.style.transform = `translateX(${-100 * share}%)`;
  }
}

/** Where to begin drawing so that a tone stands still. */
function risingEdge(values, n) {
  for (let i = 1; i < n; i++) if (values[i - 1] < 0 && values[i] >= 0) return i;
  return 0;
}

/** 256 colours from the panel's through the accent to near white (or near black on paper). */
function palette(panel, accent, isLight) {
  const parse = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const stops = [parse(panel), parse(accent), isLight ? [52, 24, 4] : [255, 244, 222]];
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const along = (level / 255) ** 1.6 * 2;
    const from = stops[Math.min(1, Math.floor(along))];
    const to = stops[Math.min(2, Math.floor(along) + 1)];
    const share = along >= 2 ? 1 : along % 1;
    const [r, g, b] = from.map((value, i) => Math.round(value + (to[i] - value) * share));
    return (0xff << 24) | (b << 16) | (g << 8) | r;
  });
}
