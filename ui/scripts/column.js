// The right column: the style sheet needs its height, so that its end can be reached if it is taller than the window.
(() => {
  const watched = new WeakSet();
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) target.style.setProperty("--column-height", `${target.offsetHeight}px`);
  });
  styler.watchPage(() => {
    for (const column of document.querySelectorAll(".picture")) {
      if (watched.has(column)) continue;
      watched.add(column);
      observer.observe(column);
    }
  });
})();
