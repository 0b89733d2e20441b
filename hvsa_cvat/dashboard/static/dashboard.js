// Keys, and the layers over a frame. Everything else works without this file.
"use strict";

const typing = (target) => target.matches("input:not([type=radio]):not([type=checkbox]):not([type=range]), select, textarea");

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  // a slider that has the focus moves by the arrow keys
  if (event.target.matches("input[type=range], input[type=radio]") && event.key.startsWith("Arrow")) return;
  const found = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key.toLowerCase() || one.dataset.key === event.key);
  if (!found) return;
  event.preventDefault();
  if (found.matches("input[type=search]")) found.focus();
  else found.click();
});

const viewer = document.querySelector("[data-viewer]");
if (viewer) {
  const remembered = (name, otherwise) => { try { return sessionStorage.getItem(name) ?? otherwise; } catch { return otherwise; } };
  const remember = (name, value) => { try { sessionStorage.setItem(name, value); } catch { /* private windows may refuse */ } };
  const slider = viewer.querySelector("[data-opacity]");
  const radios = [...viewer.querySelectorAll("[name=layer]")];
  const outlines = viewer.querySelector("[data-outlines]");

  const show = () => {
    const chosen = radios.find((one) => one.checked).value;
    viewer.querySelectorAll("img[data-layer]").forEach((one) => {
      one.hidden = one.dataset.layer !== chosen;
      one.style.opacity = slider.value / 100;
    });
    viewer.querySelector("[data-opacity-value]").textContent = `${slider.value} %`;
    const drawn = viewer.querySelector("svg[data-layer]");
    if (drawn) drawn.classList.toggle("off", !outlines.checked);
    remember("opacity", slider.value);
    remember("layer", chosen);
  };
  slider.value = remembered("opacity", "60");
  const last = radios.find((one) => one.value === remembered("layer", "after"));
  if (last) last.checked = true;
  viewer.addEventListener("input", show);
  show();
}
