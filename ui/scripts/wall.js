// Previews: they follow the settings after a pause, and a click on an uploaded painting shows its preview large.
(() => {
  const PAUSE = 700; // milliseconds
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
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#paint-sample")) refresh();
    const thumbnail = event.target.closest?.("[data-own]");
    if (!thumbnail) return;
    const button = document.querySelector("#choose-own");
    button.dataset.number = thumbnail.dataset.own;
    button.click();
  });
})();
