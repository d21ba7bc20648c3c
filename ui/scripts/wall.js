// Previews: they follow the settings after a pause, and a click on an uploaded painting shows its preview large.
(() => {
  const PAUSE = 700; // milliseconds
  const VISIBLE = 120; // pixels of the picture that are enough to see it change
  let timer;
  const refresh = () => {
    clearTimeout(timer);
    timer = setTimeout(() => document.querySelector("#refresh")?.click(), PAUSE);
  };
  // On a phone the tiles are a row that scrolls: the chosen one comes into sight, and the page stays where it is.
  const revealed = new Map();
  const reveal = () => {
    for (const tile of document.querySelectorAll(":is(#sample, #style, #region-style) label:has(input:checked)")) {
      const row = tile.parentElement;
      if (revealed.get(row) === tile || !row.checkVisibility()) continue; // sizes cost a layout, and the page changes often
      revealed.set(row, tile);
      const [box, frame] = [tile.getBoundingClientRect(), row.getBoundingClientRect()];
      if (box.left >= frame.left && box.right <= frame.right) continue;
      row.scrollBy({ left: (box.left + box.right - frame.left - frame.right) / 2 });
    }
  };
  styler.watchPage(reveal);
  document.addEventListener("change", reveal);
  const isSetting = (target) =>
    target.closest?.("#choices") && !target.closest("#content, #sample, #style, #own-styles, #settings-file");
  for (const kind of ["input", "change"]) {
    document.addEventListener(kind, (event) => { if (isSetting(event.target)) refresh(); });
  }
  const show = (tile) => {
    const button = document.querySelector("#show-preview");
    button.dataset.tile = tile;
    button.click();
    // On a phone the picture is above the tiles, out of sight.
    if (document.querySelector("#stage").getBoundingClientRect().bottom < VISIBLE) scrollTo({ top: 0, behavior: "smooth" });
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#paint-sample")) refresh();
    const thumbnail = event.target.closest?.("[data-own]");
    if (thumbnail) show(`own-${thumbnail.dataset.own}`);
    // also on the tile that is chosen already, whose radio button does not change
    if (event.target.matches?.("#style input")) show(`bundled-${[...document.querySelectorAll("#style input")].indexOf(event.target)}`);
  });
})();
