"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NOTHING = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
  const MAP_OPACITY = 0.65;
  const element = (id) => document.getElementById(id);
  const frame = element("viewer");
  const viewer = OpenSeadragon({
    element: frame,
    drawer: "canvas",
    showNavigationControl: false,
    maxZoomPixelRatio: 8,
    visibilityRatio: 0.5,
    animationTime: 0.4,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  });

  // layers: each is a list of images with the opacity that they have when it is shown; fields are
  // `near`: they cover the slide only where it has fewer pixels than the screen
  const NEAR_ZOOM = 0.9;
  const layers = {};
  let isNear = false;
  const boxes = [...document.querySelectorAll("[data-layer]")];
  const isShown = (kind) => boxes.find((box) => box.dataset.layer === kind).checked;
  const draw = (kind) => {
    for (const { item, opacity, near } of layers[kind]) {
      item.setOpacity(isShown(kind) && (isNear || !near) ? opacity : 0);
    }
  };
  const add = (kind, opacity, options, near = false) => {
    layers[kind] ??= [];
    const success = ({ item }) => {
      layers[kind].push({ item, opacity, near });
      draw(kind);
    };
    viewer.addTiledImage({ ...options, opacity: 0, success });
  };
  const pyramid = (tiles, type) => ({
    ...data.source,
    getTileUrl: (level, x, y) => {
      const tile = tiles[`${level}/${x}/${y}`];
      return tile ? `data:image/${type};base64,${tile}` : NOTHING;
    },
  });
  const picture = (image) => ({ type: "image", url: image.src, buildPyramid: false });
  add("image", 1, { tileSource: pyramid(data.layers.image, "jpeg") });
  add("outlines", 1, { tileSource: pyramid(data.layers.outlines, "png") });
  data.fields.forEach(({ x, y, width }, number) => {
    const [image, outlines] = element(`field-${number}`).querySelectorAll("img");
    add("image", 1, { x, y, width, tileSource: picture(image) }, true);
    add("outlines", 1, { x, y, width, tileSource: picture(outlines) }, true);
  });
  for (const kind of data.maps) {
    add(kind, MAP_OPACITY, { x: 0, y: 0, width: 1, tileSource: picture(element(`map-${kind}`)) });
  }
  for (const box of boxes) {
    box.addEventListener("change", () => {
      draw(box.dataset.layer);
      if (box.dataset.layer === "outlines") document.body.classList.toggle("plain", !box.checked);
    });
  }

  viewer.addHandler("zoom", () => {
    const slide = viewer.world.getItemAt(0);
    if (!slide) return;
    const now = slide.viewportToImageZoom(viewer.viewport.getZoom()) > NEAR_ZOOM;
    if (now === isNear) return;
    isNear = now;
    draw("image");
    draw("outlines");
  });

  // the wheel scrolls the page until the slide is clicked
  let isActive = false;
  const focus = viewer.canvas.focus.bind(viewer.canvas);
  viewer.canvas.focus = () => focus({ preventScroll: true });
  viewer.addHandler("canvas-press", () => { isActive = true; });
  frame.addEventListener("pointerleave", () => { isActive = false; });
  viewer.addHandler("canvas-scroll", (event) => {
    event.preventDefaultAction = !isActive;
    event.preventDefault = isActive;
  });

  const zoom = (factor) => { viewer.viewport.zoomBy(factor).applyConstraints(); };
  element("in").addEventListener("click", () => zoom(2));
  element("out").addEventListener("click", () => zoom(0.5));
  element("home").addEventListener("click", () => viewer.viewport.goHome());
  data.fields.forEach(({ x, y, width, height }, number) => {
    element(`field-${number}`).addEventListener("click", (event) => {
      event.preventDefault();
      viewer.viewport.fitBounds(new OpenSeadragon.Rect(x, y, width, height));
      frame.scrollIntoView({ block: "center" });
    });
  });

  // a ruler of about a fifth of the frame
  const [bar, text] = element("ruler").children;
  const measure = () => {
    if (!frame.clientWidth) return;
    const perPixel = (viewer.viewport.getBounds(true).width * data.um) / frame.clientWidth;
    const power = 10 ** Math.floor(Math.log10((perPixel * frame.clientWidth) / 5));
    const length = [5, 2, 1].map((one) => one * power).find((one) => one * 5 <= perPixel * frame.clientWidth);
    bar.style.width = `${length / perPixel}px`;
    text.textContent = length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(1)} µm`;
  };
  if (data.um) {
    element("ruler").classList.add("known");
    for (const event of ["open", "animation", "resize", "update-viewport"]) viewer.addHandler(event, measure);
  }
  window.viewer = viewer;
})();
