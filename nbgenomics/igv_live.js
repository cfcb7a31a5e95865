// IGV in the page, fed by the kernel through the notebook's own connection: no URL, so no server root, base URL or network matters.

const SETTLED = 150; // ms without a movement before the kernel is told the locus
const CLICK = 350; // ms in which a second click makes a double click, which is igv.js's
const LOOK = 400; // ms between two looks for a place to draw in

function ask(model, message) {
  const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
  return new Promise((resolve, reject) => {
    const answer = (content, buffers) => {
      if (content.id !== id) return;
      model.off("msg:custom", answer);
      if (content.error) reject(new Error(content.error));
      else resolve({ ...content, bytes: buffers.map((b) => (b.buffer ? b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength) : b)) });
    };
    model.on("msg:custom", answer);
    model.send({ ...message, id });
  });
}

// igv.js comes once to a page, whatever the number of views, and leaves another igv (igv-notebook's) where it is.
async function library(model) {
  window.nbgenomicsIgv ??= ask(model, { kind: "library" }).then(async ({ bytes }) => {
    const code = await new Response(new Blob(bytes).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const other = window.igv;
    new Function(code)();
    const igv = window.igv;
    window.igv = other;
    return igv;
  });
  return window.nbgenomicsIgv;
}

// What igv.js takes for a File, its bytes read by the kernel.
function file(model, source, name, start, end) {
  return {
    name,
    size: end - start,
    slice: (from = 0, to = end - start) => file(model, source, name, start + from, Math.min(start + to, end)),
    arrayBuffer: async () => (await ask(model, { kind: "bytes", source, start, end })).bytes[0],
    async text() {
      return new TextDecoder().decode(await this.arrayBuffer());
    },
  };
}

async function rows(model, source, chr, start, end, points) {
  const { columns } = await ask(model, { kind: "rows", source, chrom: chr, start: Math.floor(start), end: Math.ceil(end), points });
  const names = Object.keys(columns);
  return columns.start.map((_, i) => Object.fromEntries([["chr", chr], ...names.map((name) => [name, columns[name][i]])]));
}

// Puts something igv.js can read in the place of each source that the kernel named.
function revived(model, value) {
  if (Array.isArray(value)) return value.map((item) => revived(model, item));
  if (!value || typeof value !== "object") return value;
  if (value.file) return file(model, value.file, value.name, 0, value.size);
  if (value.signal) {
    const getFeatures = ({ chr, start, end, bpPerPixel }) => rows(model, value.signal, chr, start, end, Math.ceil((end - start) / bpPerPixel));
    return { getFeatures };
  }
  if (value.features) return { readFeatures: (chr, start, end) => rows(model, value.features, chr, start, end, 0) };
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revived(model, item)]));
}

// Where igv.js is narrow its bar wraps; and its keyboard focus shows.
const STYLE = `.igv-navbar { flex-wrap: wrap !important; height: auto !important; }
  .igv-windowsize-panel-container { white-space: nowrap; } :focus-visible { outline: 2px solid #0072B2 !important; }`;
const NAMES = { ".igv-search-input": "locus of IGV", ".igv-chromosome-select-widget-container select": "chromosome of IGV", "input[type=range]": "zoom of IGV" };

function dress(root) {
  const style = document.createElement("style");
  style.textContent = STYLE;
  root.append(style);
  for (const [which, name] of Object.entries(NAMES)) root.querySelector(which)?.setAttribute("aria-label", name);
}

const where = (browser) => browser.referenceFrameList.map((frame) => frame.getLocusString()).join(" ");

// Draws a view in an element and keeps it and the kernel's object in step; gives back what undoes it.
function mount(model, el) {
  const box = document.createElement("div");
  const line = document.createElement("pre"); // the last thing that went wrong
  const hidden = [];
  let igv, browser, timer, closed, width, resized, click, pressed;
  box.style.cssText = "background:white;color:black;color-scheme:light;padding:4px;height:0;overflow:hidden"; // below the picture until it is drawn
  line.style.cssText = "color:var(--jp-error-color0, #B00020);white-space:pre-wrap";
  box.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes what is typed in IGV's box for its own: "dd" deletes a cell
  box.addEventListener("keydown", (event) => {
    const [input] = event.composedPath();
    if (event.key === "Enter" && input.matches(".igv-search-input")) input.blur(); // in JupyterLab Enter alone changes nothing
  });
  box.addEventListener("pointerdown", (event) => (pressed = event.clientX));
  box.addEventListener("click", (event) => {
    clearTimeout(click);
    const viewport = event.composedPath().find((part) => part.classList?.contains("igv-viewport"));
    if (!viewport || !model.get("clickable") || event.detail > 1 || Math.abs(event.clientX - pressed) > 3) return; // 3: it was a drag
    const shown = browser.trackViews.flatMap(({ track, viewports }) => viewports.map((each) => [track, each]));
    const [track, { referenceFrame: frame }] = shown.find(([, each]) => each.$viewport.get(0) === viewport);
    const position = Math.floor(frame.start + (event.clientX - viewport.getBoundingClientRect().left) * frame.bpPerPixel);
    if (frame.chr !== "all") click = setTimeout(() => model.send({ kind: "click", chrom: frame.chr, position, track: track.name ?? "" }), CLICK);
  });
  el.append(box);
  const complain = (error) => {
    line.textContent = `IGV: ${error.message ?? error}`;
    box.after(line);
    model.send({ kind: "error", message: String(error.message ?? error) });
  };
  const moved = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (resized || box.offsetWidth !== width) return;
      model.set("locus", where(browser));
      model.save_changes();
    }, SETTLED);
  };
  const go = async () => {
    const locus = model.get("locus");
    if (browser && locus !== where(browser)) await browser.search(locus).catch(complain);
  };
  // With another width igv.js keeps its scale and lets go of the end: here the locus stays.
  const observer = new ResizeObserver(() => {
    if (!browser || !box.offsetWidth || box.offsetWidth === width) return;
    width = box.offsetWidth;
    clearTimeout(resized);
    const mine = setTimeout(async () => {
      await browser?.visibilityChange();
      await go();
      if (resized === mine) resized = undefined;
    }, SETTLED);
    resized = mine;
  });
  const open = async () => {
    while (!el.offsetWidth && !closed) await new Promise((resolve) => setTimeout(resolve, LOOK)); // igv.js needs a width
    igv = await library(model);
    const { config } = await ask(model, { kind: "open" });
    const drawn = await igv.createBrowser(box, revived(model, config));
    if (closed) return igv.removeBrowser(drawn);
    browser = drawn;
    dress(box.shadowRoot);
    width = box.offsetWidth;
    observer.observe(box);
    const search = browser.search.bind(browser);
    browser.search = async (text, first) => {
      line.remove();
      return (await search(text, first)) || ask(model, { kind: "search", text }).then(({ locus }) => search(locus)).catch((error) => complain(error) ?? true);
    };
    browser.on("trackclick", () => (model.get("clickable") ? false : undefined)); // false: no window about it
    box.style.height = box.style.overflow = "";
    const present = browser.alert.present.bind(browser.alert); // igv.js has no event for what fails later
    browser.alert.present = (said, then) => (said instanceof Error ? complain(said) : present(said, then));
    browser.on("locuschange", moved);
    for (const child of el.children) {
      if (child === box || child === line || child.style.display === "none") continue;
      child.style.display = "none";
      hidden.push(child);
    }
    await go(); // where Python went in the meantime
    moved();
  };
  const change = async ({ kind, label, track }) => {
    if (!browser) return;
    if (kind === "remove") browser.removeTrackByName(label);
    // What was added before the browser was up is there already.
    if (kind === "add" && !browser.trackViews.some((view) => view.track.name === label)) await browser.loadTrack(revived(model, track));
  };
  let queue = open().catch(complain);
  const queued = (message) => (queue = queue.then(() => change(message)).catch(complain));
  model.on("change:locus", go);
  model.on("msg:custom", queued);
  return () => {
    closed = true;
    for (const waiting of [timer, click, resized]) clearTimeout(waiting);
    observer.disconnect();
    model.off("change:locus", go);
    model.off("msg:custom", queued);
    if (browser) igv.removeBrowser(browser);
    browser = undefined;
    box.remove();
    line.remove();
    for (const child of hidden) child.style.display = "";
  };
}

export default {
  // The saved output is the picture, which needs nobody; as long as the kernel lives, the view takes its place.
  initialize({ model }) {
    const mounted = [];
    const look = () => {
      for (const place of document.querySelectorAll(`[data-igv-view="${model.get("place")}"]:not([data-live])`)) {
        place.dataset.live = "";
        mounted.push(mount(model, place));
      }
    };
    const timer = setInterval(look, LOOK);
    return () => {
      clearInterval(timer);
      for (const close of mounted) close();
    };
  },
  render: ({ model, el }) => mount(model, el),
};
