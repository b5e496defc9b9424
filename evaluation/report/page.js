// The report's cases that sort, and its viewer. It asks for files of the report's own folder only.
"use strict";

// Cases: a click on a column's name sorts by it, another one the other way round.
const table = document.getElementById("cases");
const heads = [...table.tHead.rows[0].cells];

function compare(a, b) {
  const [x, y] = [a, b].map((value) => (value === "" ? NaN : Number(value)));
  if (a === "" || b === "") return (a === "") - (b === "");
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
}

function sortBy(column) {
  const falls = heads[column].ariaSort === "ascending";
  heads.forEach((head) => (head.ariaSort = "none"));
  heads[column].ariaSort = falls ? "descending" : "ascending";
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const order = compare(value(a), value(b));
    return falls && value(a) !== "" && value(b) !== "" ? -order : order; // what is not known stays last
  });
  table.tBodies[0].append(...rows);
}

heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(column)));

document.getElementById("column")?.addEventListener("change", (event) => {
  const options = [...event.target.options].map((option) => Number(option.value));
  for (const row of [table.tHead.rows[0], ...table.tBodies[0].rows]) {
    options.forEach((column) => (row.cells[column].hidden = column !== Number(event.target.value)));
  }
});

// A link to a case opens its pictures.
function openCase() {
  const found = document.getElementById(location.hash.slice(1)) ?? document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (found?.tagName === "DETAILS") {
    found.open = true;
    found.scrollIntoView();
  }
}
addEventListener("hashchange", openCase);
openCase();

// The viewer: two NiiVues whose crosshairs move together. A case's CTs come as a script, which also works from disk.
const embedded = {};
function addVolumes(name, pair) {
  embedded[name] = pair;
}

function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${address} is missing`));
    document.body.append(script);
  });
}

async function startViewer() {
  const { Niivue, NVImage } = window.niivue;
  const byId = (id) => document.getElementById(id);
  const [choice, opacity, full, place] = ["case", "difference", "full", "place"].map(byId);
  const fullSize = JSON.parse(byId("full-size").textContent);
  const served = location.protocol !== "file:";
  const views = {};
  for (const key of ["real", "generated"]) {
    views[key] = new Niivue({
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: 0,
      multiplanarLayout: 2,
      multiplanarEqualSize: true,
      crosshairWidth: 0.6,
      crosshairColor: [1, 0.8, 0, 0.7],
      dragAndDropEnabled: false,
      isColorbar: false,
      loadingText: "",
      logLevel: "error",
      backColor: [0, 0, 0, 1],
    });
    await views[key].attachToCanvas(byId(key));
  }
  const { real, generated } = views;
  real.broadcastTo([generated], { "2d": true, "3d": false });
  generated.broadcastTo([real], { "2d": true, "3d": false });

  function window_() {
    return document.querySelector("input[name=window]:checked").value.split(",").map(Number);
  }

  function showWindow() {
    for (const view of [real, generated]) {
      if (view.volumes.length) {
        [view.volumes[0].cal_min, view.volumes[0].cal_max] = window_();
        view.updateGLVolume();
      }
    }
  }

  function showHu(key, data) {
    const text = data.values?.[0] === undefined ? "" : `${key} ${Math.round(data.values[0].value)} HU`;
    place.dataset[key] = text;
    place.textContent = [place.dataset.real, place.dataset.generated].filter(Boolean).join(", ");
  }
  real.onLocationChange = (data) => showHu("real", data);
  generated.onLocationChange = (data) => showHu("generated", data);

  // generated minus real; only where both have one grid
  function difference(ofReal, ofGenerated) {
    if (ofReal.img.length !== ofGenerated.img.length) return null;
    const found = ofGenerated.clone();
    found.img = Float32Array.from(ofGenerated.img, (hu, i) => hu - ofReal.img[i]);
    found.hdr.datatypeCode = 16; // float32
    found.hdr.numBitsPerVoxel = 32;
    found.name = "difference";
    found.colormap = "red";
    found.colormapNegative = "blue";
    found.cal_min = 100;
    found.cal_max = 500;
    found.cal_minNeg = -500;
    found.cal_maxNeg = -100;
    found.opacity = Number(opacity.value);
    return found;
  }

  async function show(images) {
    // the new ones first: NiiVue cannot say where the crosshair of an empty view lies
    for (const [view, image] of [[real, images.real], [generated, images.generated]]) {
      const before = [...view.volumes];
      view.addVolume(image);
      before.forEach((volume) => view.removeVolume(volume));
    }
    const found = difference(images.real, images.generated);
    opacity.disabled = found === null;
    if (found) generated.addVolume(found);
    showWindow();
  }

  async function showEmbedded() {
    const name = choice.value;
    if (!embedded[name]) await loadScript(`report/${encodeURIComponent(name)}.js`);
    const images = {};
    for (const key of ["real", "generated"]) {
      images[key] = await NVImage.loadFromBase64({ base64: embedded[name][key], name: `${key}.nii.gz` });
    }
    full.hidden = !(served && fullSize[name]);
    full.disabled = false;
    await show(images);
  }

  async function showFull() {
    const paths = fullSize[choice.value];
    full.disabled = true;
    place.textContent = "loading …";
    const images = {};
    for (const key of ["real", "generated"]) {
      const url = paths[key].split("/").map(encodeURIComponent).join("/");
      images[key] = await NVImage.loadFromUrl({ url, name: `${key}.nii.gz` });
    }
    await show(images);
    place.textContent = "full size";
  }

  choice.addEventListener("change", showEmbedded);
  full.addEventListener("click", showFull);
  document.querySelectorAll("input[name=window]").forEach((input) => input.addEventListener("change", showWindow));
  opacity.addEventListener("input", () => generated.setOpacity(1, Number(opacity.value)));
  const moves = {
    ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1],
    PageUp: [0, 1, 0], PageDown: [0, -1, 0],
  };
  for (const key of ["real", "generated"]) {
    byId(key).addEventListener("keydown", (event) => {
      if (moves[event.key]) {
        views[key].moveCrosshairInVox(...moves[event.key]);
        event.preventDefault();
      }
    });
  }
  await showEmbedded();
  document.body.dataset.viewer = "ready";
}

if (document.getElementById("look")) startViewer();
