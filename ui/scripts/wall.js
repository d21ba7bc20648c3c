// Previews: they follow the settings after a pause, and a click on an uploaded painting shows its preview large.
(() => {
  const PAUSE = 700; // milliseconds
  const VISIBLE = 120; // pixels of the picture that are enough to see it change
  let timer;
  const refresh = () => {
    clearTimeout(timer);
    timer = setTimeout(() => document.querySelector("#refresh")?.click(), PAUSE);
  };
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
