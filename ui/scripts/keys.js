// Keys: paint, stop, walk through the pictures, full screen, before and after, and the list of them.
(() => {
  const HOLD_MS = 300; // a key pressed longer is held, and what it did ends when it is released
  const LEAVE_MS = 300; // browsers leave full screen before or after they report the key
  const FIELDS = "input, textarea, select, [contenteditable], [role=tab], [role=listbox], [role=slider]";
  const TYPED = "textarea, select, [contenteditable], input:not([type=range], [type=radio], [type=checkbox])";
  const ENTERED = "textarea, select, button, a, [role=button], [role=tab], summary, [role=listbox]";
  const findDialog = () => document.querySelector("#keys");

  const paint = () => !styler.isPainting() && (styler.press("paint") || styler.press("batch-paint"));
  let leftAt = -Infinity;
  document.addEventListener("fullscreenchange", () => { if (!document.fullscreenElement) leftAt = performance.now(); });
  const escape = (event) => {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (performance.now() - leftAt < LEAVE_MS || event.target.closest("[aria-expanded=true]")) return;
    else styler.press("stop") || styler.press("batch-stop");
  };

  // The picture that was asked for last, until it is shown: keys come faster than pictures.
  let asked = 0;
  const walk = (step) => {
    const items = document.querySelectorAll("#history .thumbnail-item");
    if (!styler.isVisible("history") || styler.isBusy() || !items.length) return;
    const shown = Number(styler.findView()?.dataset.picture ?? 0);
    const from = asked || shown || (step < 0 ? items.length + 1 : 0);
    const next = Math.min(items.length, Math.max(1, from + step));
    if (next === from) return;
    asked = next;
    items[next - 1].click();
  };
  styler.watchPage(() => { if (styler.isBusy() || Number(styler.findView()?.dataset.picture) === asked) asked = 0; });

  let flipped = null;
  const flip = (event) => {
    const view = styler.findView();
    if (view && styler.isVisible("slider")) flipped = { was: styler.flip(view), since: event.timeStamp };
  };
  const release = (event) => {
    const frame = styler.findView()?.querySelector(".compare");
    if (flipped && frame && event.timeStamp - flipped.since > HOLD_MS) styler.moveLine(frame, flipped.was);
    flipped = null;
  };

  const listKeys = () => findDialog().showModal();
  const LETTERS = { f: () => document.querySelector(".view .screen")?.click(), b: flip, "?": listKeys };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const isCommand = event.ctrlKey || event.metaKey;
    if (event.key === "Escape") escape(event);
    if (event.key === "Enter" && (isCommand || !event.target.closest(ENTERED)) && paint()) event.preventDefault();
    if (isCommand || event.altKey || event.repeat) return;
    if (!event.target.closest(TYPED)) LETTERS[event.key.toLowerCase()]?.(event);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && !event.shiftKey && !event.target.closest(FIELDS)) walk(step);
  });
  document.addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "b") release(event); });
  document.addEventListener("click", (event) => { if (event.target.closest("#list-keys")) listKeys(); });
})();
