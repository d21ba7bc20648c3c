// Before and after: the line between two pictures, what the painted one is compared with, side by side, full screen.
(() => {
  const moveLine = (frame, percent) => {
    frame.querySelector("input").value = percent;
    frame.style.setProperty("--cut", `${percent}%`);
  };
  const followPointer = (event) => {
    const frame = event.target.closest?.(".compare");
    if (!frame || event.buttons !== 1 || event.target.closest("button")) return;
    if (frame.closest("[data-side], .magnified")) return;
    const box = frame.getBoundingClientRect();
    moveLine(frame, Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
    if (event.type === "pointerdown") frame.setPointerCapture(event.pointerId);
  };
  document.addEventListener("pointerdown", followPointer);
  document.addEventListener("pointermove", followPointer);
  document.addEventListener("input", (event) => {
    if (event.target.matches(".compare input")) moveLine(event.target.parentElement, event.target.value);
  });

  const setSide = (view, isSide) => {
    view.toggleAttribute("data-side", isSide);
    view.querySelector(".compare input").disabled = isSide;
    document.querySelector("#side")?.setAttribute("aria-pressed", String(isSide));
    if (isSide) styler.magnify(view, false);
  };
  // Where the line was before it was flipped is where it returns to when a held key is released.
  const flip = (view) => {
    const was = Number(view.querySelector(".compare input").value);
    setSide(view, false);
    moveLine(view.querySelector(".compare"), was < 100 ? 100 : 0);
    return was;
  };

  const listOthers = (view) =>
    JSON.parse(view.dataset.pictures).map((source, index) => [index + 1, source]).filter(
      ([number]) => number !== Number(view.dataset.picture),
    );
  const compareWith = (view, number) => {
    const before = view.querySelector(".before");
    const source = listOthers(view).find(([other]) => other === number)?.[1];
    before.src = source ?? view.dataset.photo;
    before.alt = source ? `Picture ${number}` : "The photo";
    const name = source ? `picture ${number}` : "the photo";
    view.querySelector(".compare input").ariaLabel = `Line between ${name} and the painted picture`;
    view.dataset.other = source ? number : "";
    const select = document.querySelector("#compare-with");
    if (select) select.value = view.dataset.other;
  };
  styler.watchView((view, tools, isNew) => {
    if (isNew) {
      compareWith(view, 0);
      setSide(view, false);
      moveLine(view.querySelector(".compare"), 50);
      styler.magnify(view, false);
    }
    const select = tools.querySelector("#compare-with");
    const others = listOthers(view).map(([number]) => new Option(`picture ${number}`, number));
    select.replaceChildren(new Option("the photo", ""), ...others);
    select.value = view.dataset.other ?? "";
    select.closest("label").hidden = !others.length;
    setSide(view, view.hasAttribute("data-side"));
  });
  document.addEventListener("change", (event) => {
    const view = styler.findView();
    if (!view || !event.target.matches?.("#compare-with")) return;
    styler.resetBlend(view);
    compareWith(view, Number(event.target.value));
  });

  document.documentElement.classList.toggle("no-fullscreen", !document.fullscreenEnabled);
  document.addEventListener("click", (event) => {
    const view = styler.findView();
    if (view && event.target.closest("#side")) {
      setSide(view, !view.hasAttribute("data-side"));
    } else if (event.target.closest(".screen")) {
      if (document.fullscreenElement) document.exitFullscreen();
      else event.target.closest(".view").requestFullscreen();
    }
  });

  Object.assign(styler, { compareWith, flip, moveLine, setSide });
})();
