// A recording of the listener's, made into what a model can go on from.

/** Longer files are read by nobody: a browser decodes the whole to give the end. */
const FILE_LEN_MAX = 256 * 1024 * 1024;

/**
 * The end of a recording, mono, at the model's rate: `hears` samples of it, which is all that the model
 * hears. Browsers decode WAV, FLAC, MP3, Ogg and more, and resample while they do.
 */
export async function promptOf(file, rateHz, hears) {
  if (file.size > FILE_LEN_MAX) throw new Error(`${file.name} is too long a file; cut it to a minute`);
  const decoder = new OfflineAudioContext(1, 1, rateHz);
  let sound;
  try {
    sound = await decoder.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is no recording that this browser can read; a WAV file is`);
  }
  const n = Math.min(hears, sound.length);
  if (n === 0) throw new Error(`${file.name} holds no sound`);
  const samples = new Float32Array(n);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    const values = sound.getChannelData(channel).subarray(sound.length - n);
    for (let i = 0; i < n; i++) samples[i] += values[i] / sound.numberOfChannels;
  }
  // A decoder may overshoot full scale.
  for (let i = 0; i < n; i++) samples[i] = Math.max(-1, Math.min(1, samples[i]));
  return { samples, rateHz };
}
