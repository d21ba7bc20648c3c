// Files, by whatever way they come: what cannot be a picture is refused with a reason before it is sent.
(() => {
  const isPhoto = (input) => Boolean(input.closest("#content"));
  const refuse = (input, reason) => {
    if (!isPhoto(input)) return styler.showAlert("refusal", reason);
    const button = document.querySelector("#refuse"); // the server shows the reason on the stage
    button.dataset.reason = reason;
    button.click();
  };
  const checkFiles = (input, files) => {
    const limit = window.gradio_config?.max_file_size ?? Infinity;
    const large = files.find((file) => file.size > limit);
    const size = (bytes) => `${(bytes / 1e6).toPrecision(3)} MB`;
    if (large) return `'${large.name}' has ${size(large.size)}, more than the limit of ${size(limit)}; choose a smaller file.`;
    if (isPhoto(input) && files.length > 1) return "One photo is painted at a time; drop one, or use Batch for several.";
    return "";
  };
  // The stage takes the proportions of the photo at once: when the server answers, nothing below it moves any more.
  // If the server refuses it, the frame keeps what it shows.
  let before = null;
  const setRatio = (ratio) => {
    const frame = document.querySelector("#stage .frame");
    if (!frame || styler.isPainting()) return;
    if (!frame.hasAttribute("data-fitted")) before = frame.style.getPropertyValue("--ratio");
    frame.classList.remove("invitation");
    frame.toggleAttribute("data-fitted", true);
    frame.style.setProperty("--ratio", ratio);
  };
  let refused = null;
  styler.watchPage(() => {
    const refusal = document.querySelector("#status [data-refusal]");
    const frame = document.querySelector("#stage .frame[data-fitted]");
    if (refusal && refusal.dataset.refusal !== refused && frame) {
      frame.removeAttribute("data-fitted");
      frame.style.setProperty("--ratio", before);
    }
    refused = refusal?.dataset.refusal;
  });
  const fitStage = (file) => {
    const image = new Image();
    image.onload = () => {
      setRatio(image.naturalWidth / image.naturalHeight);
      URL.revokeObjectURL(image.src);
    };
    image.onerror = () => URL.revokeObjectURL(image.src); // a format that the browser does not know
    image.src = URL.createObjectURL(file);
  };
  document.addEventListener("input", ({ target }) => {
    if (target.matches?.("#sample input")) setRatio(getComputedStyle(target.closest("label")).getPropertyValue("--ratio"));
  });
  // Types are set because Gradio passes on only `image/…`, and browsers do not know those of HEIC, JPEG XL and others.
  const give = (input, files) => {
    const transfer = new DataTransfer();
    for (const file of files) {
      const isKnown = file.type.startsWith("image/");
      transfer.items.add(isKnown ? file : new File([file], file.name, { type: "image/unknown", lastModified: file.lastModified }));
    }
    if (isPhoto(input)) fitStage(files[0]);
    input.files = transfer.files;
    input.dispatchEvent(new CustomEvent("change", { bubbles: true, detail: "checked" }));
  };
  const take = (input, files) => {
    const reason = checkFiles(input, files);
    if (reason) refuse(input, reason);
    else give(input, files);
  };
  document.addEventListener("change", (event) => {
    const input = event.target;
    if (event.detail === "checked" || !input.matches?.(".gradio-container input[type=file]") || !input.files.length) return;
    event.stopImmediatePropagation();
    take(input, [...input.files]);
  }, true);
  // A file dropped beside an area would make the browser leave the page; it is taken as the photo instead.
  const findInput = (event) =>
    (event.target.closest?.("#content, .drop") ?? document.querySelector("#content")).querySelector("input[type=file]");
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    const data = event.dataTransfer;
    const input = styler.isVisible("paint") || event.target.closest?.(".drop") ? findInput(event) : null;
    event.preventDefault();
    if (!input || !data) return;
    const folder = [...data.items].map((item) => item.webkitGetAsEntry?.()).find((entry) => entry?.isDirectory);
    const files = [...data.files];
    let reason = "";
    if (folder) reason = `'${folder.name}' is a folder; drop the pictures that are in it.`;
    else if (!files.length) reason = "That is text or a link, not a file; save the picture first, then drop the file.";
    else reason = checkFiles(input, files);
    if (reason) refuse(input, reason);
    else give(input, files);
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true })); // Gradio still shows that something hovers
    event.stopImmediatePropagation();
  }, true);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || !styler.isVisible("paint")) return;
    event.preventDefault();
    take(findInput(event), files);
  });

  styler.setDrawing = (file) => give(document.querySelector("#drawn input[type=file]"), [file]);
  styler.setPhoto = (file) => take(document.querySelector("#content input[type=file]"), [file]);
})();
