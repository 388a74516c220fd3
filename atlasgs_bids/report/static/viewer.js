"use strict";
// NiiVue over the same volumes that are scrolled through; its code is unpacked when the first viewer is opened.
(() => {
  const { gunzipped, make } = window.atlasgs;
  const EVERY = "all three";
  let library = null;
  let open = null;

  function niivue() {
    library ??= gunzipped("niivue").then((buffer) => {
      document.head.append(make("script", { textContent: new TextDecoder().decode(buffer) }));
      return window.niivue;
    });
    return library;
  }

  const base64 = (id) => document.getElementById(id).textContent;

  async function instance(code, canvas, images) {
    const nv = new code.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.35, 0.7, 1, 0.9], isRadiologicalConvention: true,
      dragAndDropEnabled: false, isColorbar: false, logLevel: "error", loadingText: "", multiplanarShowRender: 0,
    });
    await nv.attachToCanvas(canvas);
    for (const image of images) {
      const volume = await code.NVImage.loadFromBase64({ base64: base64(image.volume), name: `${image.name}.nii.gz`, cal_min: 0, cal_max: 255 });
      nv.addVolume(volume);
    }
    nv.setSliceType(nv.sliceTypeMultiplanar);
    return nv;
  }

  async function start(element) {
    const { images, label } = JSON.parse(element.dataset.viewer);
    const code = await niivue();
    if (open) stop(open);
    open = element;
    const shown = [[images[0]], [images[1]], [images[1], images[2]]];
    const panels = images.map((image) => {
      const canvas = make("canvas", { tabIndex: 0 });
      canvas.setAttribute("aria-label", `${label}: ${image.name} in three planes`);
      canvas.setAttribute("role", "application");
      return make("div", { className: "canvas" }, make("p", { textContent: image.name }), make("div", { className: "frame" }, canvas));
    });
    element.querySelector(".canvases").replaceChildren(...panels);
    element.querySelector(".bar").hidden = false;
    element.querySelector(".open").hidden = true;
    const viewers = [];
    for (const [n, panel] of panels.entries()) viewers.push(await instance(code, panel.querySelector("canvas"), shown[n]));
    viewers.forEach((nv) => {
      nv.broadcastTo(viewers.filter((other) => other !== nv));
      nv.onLocationChange = ({ mm }) => {
        const [x, y, z] = [...mm].map((value) => value.toFixed(0));
        element.querySelector(".location").textContent = `x ${x}, y ${y}, z ${z} mm (RAS)`;
      };
    });
    element.niivues = viewers;
    switches(element, images, panels);
    element.querySelector(".blend").oninput = (event) => viewers[2].setOpacity(1, Number(event.target.value) / 100);
    element.dataset.ready = "yes";
  }

  function switches(element, images, panels) {
    const set = element.querySelector(".switch");
    const names = [EVERY, ...images.map((image) => image.name)];
    const legend = set.querySelector("legend");
    set.replaceChildren(legend, ...names.map((name, n) => {
      const radio = make("input", { type: "radio", name: `show-${images[0].volume}`, checked: n === 0 });
      radio.addEventListener("change", () => panels.forEach((panel, m) => { panel.hidden = n > 0 && m !== n - 1; }));
      return make("label", {}, radio, ` ${name}`);
    }));
  }

  function stop(element) {
    (element.niivues ?? []).forEach((nv) => {
      nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
      nv.cleanup();
    });
    element.niivues = null;
    element.querySelector(".canvases").replaceChildren();
    element.querySelector(".bar").hidden = true;
    element.querySelector(".open").hidden = false;
    element.querySelector(".location").textContent = "";
    delete element.dataset.ready;
    if (open === element) open = null;
  }

  document.querySelectorAll(".viewer").forEach((element) => {
    element.querySelector(".open").addEventListener("click", () => start(element).catch((error) => {
      element.querySelector(".location").textContent = `The viewer cannot start here: ${error.message ?? error}`;
    }));
    element.querySelector(".close").addEventListener("click", () => { stop(element); element.querySelector(".open").focus(); });
  });
})();
