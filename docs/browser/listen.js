// Separates a recording and compares its seconds, with models that sepssl-export has written.
// The two folders lie beside this file, see docs/export.md.
import {loadAndCompile, loadLiteRt, Tensor} from "@litertjs/core";

const LONGEST = 300; // seconds of a recording, whose channels are all held in memory
const SILENCE = 1e-6; // RMS; windows below are like no other, as in sepssl-embed
const get = id => document.getElementById(id);
const pause = () => new Promise(done => setTimeout(done)); // lets the page draw

// -- Models

async function load(folder, file) {
  const response = await fetch(`${folder}/card.json`);
  if (!response.ok) throw new Error(`${folder}/card.json: not found; expected an export of sepssl`);
  const card = await response.json();
  const network = await loadAndCompile(`${folder}/${file}`, {accelerator: "wasm"});
  const samples = network.getInputDetails()[0].shape[1];
  if (samples < 1) throw new Error(`${folder}/${file}: takes any length; expected a fixed one`);
  const run = async waveform => { // Float32Array of `samples` -> Float32Array
    const input = new Tensor(waveform, [1, samples]);
    const [output] = await network.run([input]);
    const values = (await output.data()).slice();
    input.delete();
    output.delete();
    return values;
  };
  return {card, samples, run};
}

// One recording -> its channels, in chunks joined as `separate_chunks` of sepssl does it. Chunks
// have a fixed length here: a recording that is shorter by a hop or more is repeated, since silence
// would change its channels more. Less than a hop is filled with silence.
async function separate({card, samples: chunk, run}, recording, progress) {
  const grid = card.hop_samples, channels = card.sources, end = recording.length;
  const [context, fade] = [0.1, 0.02].map(share => Math.round(share * chunk / grid) * grid);
  const overlap = 2 * context + fade, hop = chunk - overlap;
  const last = Math.max(0, Math.ceil((end - chunk) / grid) * grid);
  const result = Array.from({length: channels}, () => new Float32Array(end));
  let before = null; // the previous chunk's channels, from where they overlap with this one's
  for (let next = 0, done = 0; done < end; next += hop) {
    const start = Math.min(next, last);
    const input = new Float32Array(chunk), there = recording.subarray(start, start + chunk);
    input.set(there);
    if (there.length <= chunk - grid)
      for (let at = there.length; at < chunk; at += there.length)
        input.set(there.subarray(0, chunk - at), at);
    const values = await run(input);
    let sources = result.map((_, c) => values.subarray(c * chunk, (c + 1) * chunk));
    if (before) {
      const after = sources.map(source => source.subarray(next - start, next - start + overlap));
      sources = matched(before, after).map(c => sources[c]);
    }
    const from = next ? next + context : 0; // before it, the previous chunk alone counts
    for (let c = 0; c < channels; c++)
      for (let t = from; t < start + chunk && t < end; t++) {
        const weight = next ? Math.min(1, (t - from + 0.5) / fade) : 1;
        result[c][t] += weight * (sources[c][t - start] - result[c][t]);
      }
    before = sources.map(source => source.subarray(hop));
    done = Math.min(start + chunk, end);
    progress(done / end);
    await pause();
  }
  return result;
}

// The order of the channels `after` that makes them most like `before`, if it removes nine tenths of
// the difference; else their own. As sepssl does it, so that a channel keeps its identity.
function matched(before, after) {
  const product = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const table = before.map(a => after.map(b => product(a, b)));
  let best = {sum: -Infinity, order: null};
  const extend = (order, sum) => {
    if (order.length === after.length && sum > best.sum) best = {sum, order};
    after.forEach((_, c) => {
      if (!order.includes(c)) extend([...order, c], sum + table[order.length][c]);
    });
  };
  extend([], 0);
  // |a - b|^2 = |a|^2 + |b|^2 - 2 ab, of which an order changes the last term alone.
  const own = after.map((_, c) => c);
  const powers = [...before, ...after].reduce((sum, a) => sum + product(a, a), 0);
  const kept = powers - 2 * own.reduce((sum, c) => sum + table[c][c], 0);
  return powers - 2 * best.sum < 0.1 * kept ? best.order : own;
}

// The windows of `WindowEmbedder`: one every hop, and one that ends with the recording.
function windowStarts({card, samples}, length) {
  const hop = Math.round(card.patch_hop_seconds * card.sample_rate), starts = [];
  for (let start = 0; start + samples <= length; start += hop) starts.push(start);
  const last = Math.max(0, length - samples);
  if (starts.at(-1) !== last) starts.push(last);
  return starts;
}

async function embed({samples, run}, sound, start = 0) {
  const input = new Float32Array(samples);
  input.set(sound.subarray(start, start + samples));
  const power = input.reduce((sum, x) => sum + x * x, 0) / samples;
  if (power <= SILENCE ** 2) return {vector: null, power};
  return {vector: await run(input), power};
}

function cosine(a, b) {
  if (!a || !b) return 0;
  let product = 0, ofA = 0, ofB = 0;
  for (let i = 0; i < a.length; i++) {
    product += a[i] * b[i];
    ofA += a[i] ** 2;
    ofB += b[i] ** 2;
  }
  return product / Math.sqrt(ofA * ofB);
}

// -- Sound in and out

function mono(buffer) {
  const sum = new Float32Array(buffer.length);
  for (let c = 0; c < buffer.numberOfChannels; c++)
    buffer.getChannelData(c).forEach((x, i) => { sum[i] += x / buffer.numberOfChannels; });
  return sum;
}

// A file's bytes -> mono at `rate`: an offline context decodes to its own rate.
async function decode(bytes, rate) {
  return mono(await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes));
}

async function resample(sound, from, to) {
  if (from === to || !sound.length) return sound;
  const context = new OfflineAudioContext(1, Math.ceil(sound.length * to / from), to);
  const buffer = context.createBuffer(1, sound.length, from);
  buffer.copyToChannel(sound, 0);
  const source = new AudioBufferSourceNode(context, {buffer});
  source.connect(context.destination);
  source.start();
  return mono(await context.startRendering());
}

function wav(sound, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const text = (at, value) => [...value].forEach((x, i) => view.setUint8(at + i, x.charCodeAt()));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * sound.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * sound.length, true);
  sound.forEach((x, i) => {
    view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, x))), true);
  });
  return new Blob([view], {type: "audio/wav"});
}

// Runs in the audio thread, and posts what the microphone gives.
const RECORDER = `registerProcessor("recorder", class extends AudioWorkletProcessor {
  process([[channel]]) {
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});`;

// Calls `heard` with each block, Float32Array at the context's rate; returns what stops it.
async function listen(heard) {
  if (!navigator.mediaDevices) throw new Error("Browsers allow the microphone over HTTPS only.");
  const raw = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
  const stream = await navigator.mediaDevices.getUserMedia({audio: raw});
  const context = new AudioContext();
  const module = URL.createObjectURL(new Blob([RECORDER], {type: "text/javascript"}));
  await context.audioWorklet.addModule(module);
  URL.revokeObjectURL(module);
  const recorder = new AudioWorkletNode(context, "recorder", {numberOfOutputs: 0});
  recorder.port.onmessage = ({data}) => heard(data);
  context.createMediaStreamSource(stream).connect(recorder);
  const stop = async () => {
    stream.getTracks().forEach(track => track.stop());
    await context.close();
  };
  return {rate: context.sampleRate, stop};
}

function joined(blocks) {
  const sound = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    sound.set(block, at);
    at += block.length;
  }
  return sound;
}

// -- Spectrograms

const FRAME = 512;
const HANN = Float32Array.from({length: FRAME}, (_, i) => Math.sin(Math.PI * (i + 0.5) / FRAME) ** 2);

// Power of the bins 0 to FRAME / 2, by a radix-2 FFT in place.
function spectrum(sound, start) {
  const real = new Float32Array(FRAME), imag = new Float32Array(FRAME);
  for (let i = 0, j = 0; i < FRAME; i++) { // j is i with its bits reversed
    real[j] = (sound[start + i] || 0) * HANN[i];
    let bit = FRAME >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (let size = 2; size <= FRAME; size *= 2)
    for (let k = 0; k < size / 2; k++) {
      const cos = Math.cos(2 * Math.PI * k / size), sin = -Math.sin(2 * Math.PI * k / size);
      for (let a = k; a < FRAME; a += size) {
        const b = a + size / 2;
        const re = real[b] * cos - imag[b] * sin, im = real[b] * sin + imag[b] * cos;
        real[b] = real[a] - re;
        imag[b] = imag[a] - im;
        real[a] += re;
        imag[a] += im;
      }
    }
  return real.subarray(0, FRAME / 2 + 1).map((x, i) => x * x + imag[i] * imag[i]);
}

function spectrogram(sound) {
  const columns = Math.max(1, Math.min(1000, Math.ceil(sound.length / (FRAME / 2))));
  const step = sound.length / columns;
  return Array.from({length: columns}, (_, i) =>
    spectrum(sound, Math.round((i + 0.5) * step - FRAME / 2)));
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const stops = ["--quiet", "--middle", "--loud"].map(name =>
    style.getPropertyValue(name).match(/\w\w/g).map(x => parseInt(x, 16)));
  return Array.from({length: 256}, (_, i) => {
    const place = i / 255 * 2, low = Math.min(1, Math.floor(place));
    return stops[low].map((x, c) => x + (stops[low + 1][c] - x) * (place - low));
  });
}

function drawSpectrogram(canvas, columns, loudest) {
  const table = colours(), height = FRAME / 2 + 1, range = 70; // dB
  canvas.width = columns.length;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(columns.length, height);
  columns.forEach((column, x) => column.forEach((power, bin) => {
    const level = 1 + 10 * Math.log10(power / loudest + 1e-12) / range;
    const colour = table[Math.round(255 * Math.max(0, Math.min(1, level)))];
    image.data.set([...colour, 255], 4 * ((height - 1 - bin) * columns.length + x));
  }));
  context.putImageData(image, 0, 0);
}

// -- The page

// What is shown: rows of {name, sound, columns, windows, similarities, elements}, the recording
// first; the windows' starts in samples; the marked window; the least similarity to it.
export const shown = {rows: [], starts: [], mark: null, least: 0};
export let encoder, separator;

function element(tag, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  parent.append(made);
  return made;
}

function addRow(name, sound) {
  const rate = encoder.card.sample_rate, seconds = sound.length / rate;
  const row = {name, sound, columns: spectrogram(sound), windows: [], similarities: []};
  element("h2", get("rows"), {textContent: name});
  const picture = element("div", get("rows"), {className: "picture", tabIndex: 0});
  picture.role = "slider";
  picture.ariaLabel = `Marked second, ${name}`;
  picture.ariaValueMin = "0";
  picture.ariaValueMax = String(seconds);
  const canvas = element("canvas", picture), bars = element("canvas", picture);
  bars.className = "similarity";
  const mark = element("div", picture, {className: "mark", hidden: true});
  const playhead = element("div", picture, {className: "playhead", hidden: true});
  const axis = element("div", get("rows"), {className: "axis"});
  for (const text of ["0 s", `0 to ${rate / 2000} kHz`, `${seconds.toFixed(1)} s`])
    element("span", axis, {textContent: text});
  const player = element("audio", get("rows"), {controls: true, ariaLabel: `Play ${name}`});
  player.src = URL.createObjectURL(wav(sound, rate));
  player.ontimeupdate = () => {
    playhead.hidden = false;
    playhead.style.left = `${100 * player.currentTime / seconds}%`;
  };
  picture.onclick = event => {
    const box = picture.getBoundingClientRect();
    const middle = (event.clientX - box.left) / box.width * sound.length - encoder.samples / 2;
    setMark(row, nearestWindow(middle));
  };
  picture.onkeydown = event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step) return;
    event.preventDefault();
    const from = shown.mark?.row === row ? shown.mark.window + step : 0;
    setMark(row, Math.max(0, Math.min(shown.starts.length - 1, from)));
  };
  row.elements = {picture, canvas, bars, mark, player};
  shown.rows.push(row);
  return row;
}

function nearestWindow(start) {
  const distances = shown.starts.map(x => Math.abs(x - start));
  return distances.indexOf(Math.min(...distances));
}

// Marks a window of a row that has been embedded, and compares the others with it.
export function setMark(row, window) {
  if (!row.windows[window]) return; // not yet embedded
  const {vector} = row.windows[window];
  if (!vector) {
    get("status").textContent = "There is no sound in that second.";
    return;
  }
  shown.mark = {row, window, vector};
  compare();
}

function compare() {
  const {mark, rows, starts} = shown, rate = encoder.card.sample_rate;
  for (const row of rows)
    row.similarities = row.windows.map(({vector}) => cosine(vector, mark.vector));
  const scores = rows.flatMap(row => row.windows.map(({vector}, i) => vector ? row.similarities[i] : 1));
  shown.least = Math.floor(10 * Math.min(0.9, ...scores)) / 10;
  get("range").textContent = `: the cosine of their embeddings, from ${shown.least} (no bar) to 1`;
  for (const row of rows) {
    const {picture, mark: box} = row.elements, length = row.sound.length;
    box.hidden = row !== mark.row;
    box.style.left = `${100 * starts[mark.window] / length}%`;
    box.style.width = `${100 * Math.min(1, encoder.samples / length)}%`;
    picture.ariaValueNow = row === mark.row ? String(starts[mark.window] / rate) : null;
    drawBars(row);
  }
  // Windows that overlap the marked one, or one listed before them, in their row are not news.
  const others = rows.flatMap(row => row.similarities.map((score, window) => ({row, window, score})));
  others.sort((a, b) => b.score - a.score);
  const news = [mark];
  for (const found of others)
    if (news.every(({row, window}) => row !== found.row ||
        Math.abs(starts[window] - starts[found.window]) >= encoder.samples)) news.push(found);
  get("nearest").replaceChildren();
  for (const {row, window, score} of news.slice(1, 6)) {
    const seconds = starts[window] / rate;
    const text = `${row.name}, ${seconds.toFixed(1)} s: ${score.toFixed(2)}`;
    const button = element("button", element("li", get("nearest")), {type: "button", textContent: text});
    button.onclick = () => {
      row.elements.player.currentTime = seconds;
      row.elements.player.play();
      row.elements.picture.scrollIntoView({block: "nearest"});
    };
  }
}

function drawBars({elements: {bars}, sound, similarities}) {
  const style = getComputedStyle(document.documentElement);
  bars.width = bars.clientWidth * devicePixelRatio;
  bars.height = bars.clientHeight * devicePixelRatio;
  const context = bars.getContext("2d"), {starts} = shown;
  context.fillStyle = style.getPropertyValue("--middle");
  similarities.forEach((score, i) => { // a window's bar ends where the next window begins
    const [from, to] = [starts[i], starts[i + 1] ?? sound.length].map(x => x / sound.length);
    const height = (score - shown.least) / (1 - shown.least) * bars.height;
    context.fillRect(from * bars.width, bars.height - height, (to - from) * bars.width - 1, height);
  });
}

function drawAll() {
  const loudest = Math.max(1e-9, ...shown.rows[0].columns.map(column => Math.max(...column)));
  for (const row of shown.rows) {
    drawSpectrogram(row.elements.canvas, row.columns, loudest);
    drawBars(row);
  }
}

// Shows a recording, mono at the models' rate.
async function show(name, recording) {
  const rate = encoder.card.sample_rate, say = text => { get("status").textContent = text; };
  if (!recording.length) throw new Error(`${name}: holds no sound`);
  if (!recording.every(Number.isFinite)) throw new Error(`${name}: holds NaN or infinity`);
  const cut = recording.length > LONGEST * rate;
  if (cut) recording = recording.slice(0, LONGEST * rate);
  for (const {elements: {player}} of shown.rows) URL.revokeObjectURL(player.src);
  Object.assign(shown, {rows: [], starts: windowStarts(encoder, recording.length), mark: null});
  get("rows").replaceChildren();
  get("nearest").replaceChildren();
  get("result").hidden = false;
  addRow("Recording", recording);
  drawAll();
  const percent = share => `${Math.round(100 * share)} %`;
  const channels = await separate(separator, recording, share => say(`Separating, ${percent(share)}`));
  channels.forEach((channel, i) => addRow(`Channel ${i + 1}`, channel));
  drawAll();
  for (const [i, row] of shown.rows.entries())
    for (const start of shown.starts) {
      row.windows.push(await embed(encoder, row.sound, start));
      if (row.windows.length % 20 === 1) {
        say(`Comparing, ${percent((i + row.windows.length / shown.starts.length) / shown.rows.length)}`);
        await pause();
      }
    }
  say(`${name}, ${cut ? "the first " : ""}${(recording.length / rate).toFixed(1)} s`);
  const powers = shown.rows[0].windows.map(({power}) => power);
  setMark(shown.rows[0], powers.indexOf(Math.max(...powers)));
}

let recording = null; // while the microphone is on

async function record() {
  const rate = encoder.card.sample_rate, blocks = [];
  const {rate: from, stop} = await listen(block => blocks.push(block));
  get("record").textContent = "Stop";
  get("record").disabled = false;
  const {vector} = shown.mark ?? {};
  get("live").hidden = !vector;
  const stopped = new Promise(done => { recording = done; });
  // Every half second, the last second.
  for (let running = true; running;) {
    running = await Promise.race([stopped.then(() => false), new Promise(done =>
      setTimeout(() => done(true), 500))]);
    const samples = blocks.reduce((sum, block) => sum + block.length, 0);
    get("status").textContent = `Recording, ${(samples / from).toFixed(1)} s`;
    if (samples > LONGEST * from) running = false;
    if (!vector || !blocks.length) continue;
    const second = joined(blocks.slice(-Math.ceil(encoder.samples / rate * from / blocks[0].length)));
    const now = await embed(encoder, await resample(second, from, rate));
    get("live").querySelector("meter").value = cosine(now.vector, vector);
  }
  recording = null;
  await stop();
  get("record").textContent = "Record";
  get("live").hidden = true;
  await show("Recording", await resample(joined(blocks), from, rate));
}

// Does one thing at a time, and says what went wrong.
async function busy(work) {
  const controls = [get("file"), get("record")];
  for (const control of controls) control.disabled = true;
  try {
    await work();
  } catch (error) {
    get("status").textContent = error.message;
  }
  for (const control of controls) control.disabled = !separator;
}

get("file").onchange = () => {
  const [file] = get("file").files;
  if (file) busy(async () => {
    let sound;
    try {
      sound = await decode(await file.arrayBuffer(), encoder.card.sample_rate);
    } catch {
      throw new Error(`${file.name}: no sound that this browser can read`);
    }
    await show(file.name, sound);
  });
};
get("record").onclick = () => recording ? recording() : busy(record);
matchMedia("(prefers-color-scheme: dark)").onchange = () => shown.rows.length && drawAll();
addEventListener("resize", () => shown.rows.forEach(drawBars));

export const ready = busy(async () => {
  await loadLiteRt("./node_modules/@litertjs/core/wasm/");
  const loaded = [await load("encoder", "encoder_patch.tflite")];
  loaded.push(await load("separator", "separator.tflite"));
  const [one, other] = loaded.map(({card}) => card.sample_rate);
  if (one !== other) throw new Error(`encoder: ${one} Hz, separator: ${other} Hz; expected one rate`);
  [encoder, separator] = loaded;
  get("status").textContent = "Choose a sound file, or record one.";
});
