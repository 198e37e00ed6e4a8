"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NOTHING = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
  const element = (id) => document.getElementById(id);
  const pyramid = (tiles, type) => ({
    ...data.source,
    getTileUrl: (level, x, y) => {
      const tile = tiles[`${level}/${x}/${y}`];
      return tile ? `data:image/${type};base64,${tile}` : NOTHING;
    },
  });
  const viewer = OpenSeadragon({
    element: element("viewer"),
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: false,
    maxZoomPixelRatio: 6,
    imageSmoothingEnabled: true,
    animationTime: 0.4,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  });
  const layers = { image: [], outlines: [], density: [], focus: [] };
  const shown = { image: true, outlines: true, density: false, focus: false };
  const place = (kind, options) =>
    viewer.addTiledImage({
      ...options,
      opacity: shown[kind] ? options.opacity ?? 1 : 0,
      success: ({ item }) => layers[kind].push([item, options.opacity ?? 1]),
    });
  const picture = (url) => ({ type: "image", url, buildPyramid: false });
  place("image", { tileSource: pyramid(data.image, "jpeg") });
  place("outlines", { tileSource: pyramid(data.outlines, "png") });
  for (const field of data.fields) {
    const at = { x: field.x, y: field.y, width: field.width };
    const [image, outlines] = document.querySelectorAll(`#field-${field.number} img`);
    place("image", { ...at, tileSource: picture(image.src) });
    place("outlines", { ...at, tileSource: picture(outlines.src) });
  }
  for (const kind of ["density", "focus"]) {
    const map = element(`map-${kind}`);
    if (map) place(kind, { x: 0, y: 0, width: 1, opacity: 0.6, tileSource: picture(map.dataset.heat) });
  }
  for (const box of document.querySelectorAll("[data-layer]")) {
    box.addEventListener("change", () => {
      shown[box.dataset.layer] = box.checked;
      for (const [item, opacity] of layers[box.dataset.layer]) item.setOpacity(box.checked ? opacity : 0);
      if (box.dataset.layer === "outlines") document.body.classList.toggle("plain", !box.checked);
    });
  }
  element("home").addEventListener("click", () => viewer.viewport.goHome());
  for (const field of data.fields) {
    element(`field-${field.number}`).addEventListener("click", () => {
      viewer.viewport.fitBounds(new OpenSeadragon.Rect(field.x, field.y, field.width, field.height));
      element("viewer").scrollIntoView({ block: "center" });
    });
  }
  window.viewer = viewer;
})();
