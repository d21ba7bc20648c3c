// Leaving: the browser asks first while a picture is painted, or if one was not downloaded.
(() => {
  const unsaved = new Set();
  let newest = 0;
  let isBatchSaved = true;
  const watchPictures = () => {
    const number = Number(styler.findView()?.dataset.picture ?? 0);
    if (number > newest) unsaved.add((newest = number));
    if (document.querySelector("#batch-stop")) isBatchSaved = false;
    // Gradio reloads the page after it has lost its connection, without a reason.
    if (document.querySelector(".toast-body")?.textContent.includes("Connection to the server was lost")) {
      sessionStorage.setItem("styler-lost", "yes");
    } else if (sessionStorage.getItem("styler-lost") && styler.isVisible("paint") && !styler.isBusy()) {
      sessionStorage.removeItem("styler-lost");
      styler.showAlert("refusal", styler.LOST);
    }
  };
  styler.watchPage(watchPictures);
  document.addEventListener("click", (event) => {
    if (event.target.closest("#png, #jpeg, #deep-png, #deep-tiff")) {
      unsaved.delete(Number(styler.findView()?.dataset.picture));
    }
    if (event.target.closest("#batch-zip")) isBatchSaved = true;
  });
  addEventListener("beforeunload", (event) => {
    const hasArchive = document.querySelector("#batch-zip") && !isBatchSaved;
    if (sessionStorage.getItem("styler-lost") || (!styler.isBusy() && !hasArchive && !unsaved.size)) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // Gradio, which listens later, would end its connection although the visitor may stay
  });
  // A page restored from the browser's cache has lost its session on the server.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
})();
