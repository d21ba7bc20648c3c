// The blend of the painted picture with its photo: shown at once, then painted at such a strength, or saved as it is.
(() => {
  const FAILED =
    "The browser could not make the blend, perhaps because the picture is too large for it; " +
    "download the picture instead.";
  const computeStrength = (view) => Math.round((view.dataset.strength * view.dataset.blend) / 100);
  // Only an opacity and two texts change while the slider moves: nothing is measured, drawn or sent.
  const showBlend = (view, percent) => {
    view.dataset.blend = percent;
    view.querySelector(".after").style.opacity = percent / 100;
    const tools = document.querySelector(".tools");
    if (!tools) return;
    tools.querySelector(".percent").firstChild.data = percent;
    tools.querySelector("#repaint-blend span").firstChild.data = computeStrength(view);
    tools.classList.toggle("blends", percent < 100);
  };
  const resetBlend = (view) => {
    const slider = document.querySelector("#blend");
    if (slider) slider.value = 100;
    showBlend(view, 100);
  };
  styler.watchView((view, tools, isNew) => {
    if (isNew) view.dataset.blend = 100;
    tools.querySelector("#blend").value = view.dataset.blend;
    showBlend(view, Number(view.dataset.blend));
  });
  document.addEventListener("input", (event) => {
    const view = styler.findView();
    if (!view || event.target.id !== "blend") return;
    if (Number(view.dataset.blend) === 100) { // a blend begins: the whole of it is shown, with the photo
      styler.setSide(view, false);
      styler.moveLine(view.querySelector(".compare"), 0);
      if (view.dataset.other) styler.compareWith(view, 0);
    }
    showBlend(view, Number(event.target.value));
    if (Number(view.dataset.blend) === 100) styler.moveLine(view.querySelector(".compare"), 50);
  });

  const repaint = (view) => {
    const button = document.querySelector("#repaint"); // starts the event, with this strength
    button.dataset.strength = computeStrength(view);
    button.click();
  };
  const loadBitmap = async (source) => createImageBitmap(await styler.fetchFile(source));
  const makeBlend = async (view) => {
    const [photo, picture] = await Promise.all([view.dataset.photo, view.dataset.png].map(loadBitmap));
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    const context = canvas.getContext("2d");
    context.drawImage(photo, 0, 0, picture.width, picture.height);
    context.globalAlpha = Number(view.dataset.blend) / 100;
    context.drawImage(picture, 0, 0);
    context.globalAlpha = 1;
    context.globalCompositeOperation = "destination-in"; // as transparent as the picture is
    context.drawImage(picture, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  };
  const save = async (view, button) => {
    const name = `${view.dataset.name}.blend${view.dataset.blend}.png`;
    button.disabled = true;
    styler.say("");
    try {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await makeBlend(view));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch {
      styler.say(FAILED);
    }
    button.disabled = false;
  };
  document.addEventListener("click", (event) => {
    const view = styler.findView();
    if (!view) return;
    if (event.target.closest("#repaint-blend")) repaint(view);
    const button = event.target.closest("#save-blend");
    if (button) save(view, button);
  });

  styler.resetBlend = resetBlend;
})();
