// Keyboard shortcuts, copying, before and after, files that are dropped or pasted, the question before work is lost, and
// notices: a setting changed too late, and a server that does not respond or has lost the visitor's files.
(() => {
  // Gradio would add words in the language of the browser to a page that is in English.
  Object.defineProperty(navigator, "language", { get: () => "en" });
  Object.defineProperty(navigator, "languages", { get: () => ["en"] });

  const isVisible = (id) => document.querySelector(`#${id}`)?.offsetParent;
  const isPainting = () => isVisible("stop") || isVisible("batch-stop");
  const press = (id) => {
    const button = document.querySelector(`#${id}`);
    if (!isVisible(id) || button.disabled) return false;
    button.click();
    return true;
  };
  document.addEventListener("keydown", (event) => {
    const usesEnter = event.target.closest("textarea, button, a, [role=button], [role=tab], summary, [role=listbox]");
    if (event.key === "Escape") press("stop") || press("batch-stop");
    if (event.key === "Enter" && !usesEnter && !isPainting()) press("paint") || press("batch-paint");
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      button.outerHTML = `<code></code>`;  // without https there is no clipboard: show the command, so that it can be selected
      document.querySelector("#summary code").textContent = button.dataset.copy;
    }
  });

  // Before and after: the line follows the pointer and the arrow keys.
  const moveLine = (frame, percent) => {
    frame.querySelector("input").value = percent;
    frame.style.setProperty("--cut", `${percent}%`);
  };
  const followPointer = (event) => {
    const frame = event.target.closest?.(".compare");
    if (!frame || event.buttons !== 1 || event.target.closest("button")) return;
    const box = frame.getBoundingClientRect();
    moveLine(frame, Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
    if (event.type === "pointerdown") frame.setPointerCapture(event.pointerId);
  };
  document.addEventListener("pointerdown", followPointer);
  document.addEventListener("pointermove", followPointer);
  document.addEventListener("input", (event) => {
    if (event.target.matches(".compare input")) moveLine(event.target.parentElement, event.target.value);
  });
  document.documentElement.classList.toggle("no-fullscreen", !document.fullscreenEnabled);
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".screen")) return;
    if (document.fullscreenElement) document.exitFullscreen();
    else event.target.closest(".view").requestFullscreen();
  });

  const showNotice = (event) => {
    const column = event.target.closest?.(".choices");
    const go = column?.querySelector(".go");
    if (!go || !isPainting()) return;
    let notice = column.querySelector(".notice");
    if (!notice) {
      notice = document.createElement("p");
      notice.className = "notice";
      notice.setAttribute("role", "status");
      go.before(notice);
    }
    notice.textContent = "Applies to the next picture.";
    notice.hidden = false;
  };
  document.addEventListener("input", showNotice, true);
  document.addEventListener("change", showNotice, true);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".go")) return;
    document.querySelectorAll(".notice").forEach((notice) => { notice.hidden = true; });
    // On a phone the picture is above the settings. Scroll to the very top, where the browser does not anchor the scroll
    // position to content that grows.
    const stage = event.target.closest("#paint") && document.querySelector("#stage");
    if (stage && stage.getBoundingClientRect().top < 0) scrollTo({ top: 0 });
  });

  // Files, by whatever way they come: what cannot be a picture is refused with a reason before it is sent. Types are set
  // because Gradio passes on only `image/…`, and browsers do not know those of HEIC, JPEG XL and others.
  const isPhoto = (input) => Boolean(input.closest("#content"));
  const refuse = (input, reason) => {
    if (!isPhoto(input)) return showAlert("refusal", reason);
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
  const give = (input, files) => {
    const transfer = new DataTransfer();
    for (const file of files) {
      const isKnown = file.type.startsWith("image/");
      transfer.items.add(isKnown ? file : new File([file], file.name, { type: "image/unknown", lastModified: file.lastModified }));
    }
    input.files = transfer.files;
    input.dispatchEvent(new CustomEvent("change", { bubbles: true, detail: "checked" }));
  };
  document.addEventListener("change", (event) => {
    const input = event.target;
    if (event.detail === "checked" || !input.matches?.(".gradio-container input[type=file]") || !input.files.length) return;
    event.stopImmediatePropagation();
    const files = [...input.files];
    const reason = checkFiles(input, files);
    if (reason) refuse(input, reason);
    else give(input, files);
  }, true);
  // A file dropped beside an area would make the browser leave the page; it is taken as the photo instead.
  const findInput = (event) =>
    (event.target.closest?.("#content, .drop") ?? document.querySelector("#content")).querySelector("input[type=file]");
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    const data = event.dataTransfer;
    const input = isVisible("paint") || event.target.closest?.(".drop") ? findInput(event) : null;
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
    const number = event.clipboardData?.getData("text").trim().match(/^(-?\d+),(\d+)$/);
    if (number && event.target.matches?.("input[type=number]")) { // with a comma, the browser would drop it
      event.preventDefault();
      event.target.value = `${number[1]}.${number[2]}`;
      event.target.dispatchEvent(new Event("input", { bubbles: true }));
    }
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || !isVisible("paint")) return;
    event.preventDefault();
    const input = findInput(event);
    const reason = checkFiles(input, files);
    if (reason) refuse(input, reason);
    else give(input, files);
  });

  // Leaving: the browser asks first while a picture is painted, or if one was not downloaded.
  const unsaved = new Set();
  let newest = 0;
  let isBatchSaved = true;
  const watchPictures = () => {
    const number = Number(document.querySelector(".view")?.dataset.picture ?? 0);
    if (number > newest) unsaved.add((newest = number));
    if (document.querySelector("#batch-stop")) isBatchSaved = false;
    // Gradio reloads the page after it has lost its connection, without a reason.
    if (document.querySelector(".toast-body")?.textContent.includes("Connection to the server was lost")) {
      sessionStorage.setItem("styler-lost", "yes");
    } else if (sessionStorage.getItem("styler-lost") && isVisible("paint") && !isBusy()) {
      sessionStorage.removeItem("styler-lost");
      showAlert("refusal", LOST);
    }
  };
  const isBusy = () => document.querySelector("#stop, #batch-stop");
  new MutationObserver(watchPictures).observe(document.documentElement, { childList: true, subtree: true });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#png, #jpeg, #deep-png, #deep-tiff")) {
      unsaved.delete(Number(document.querySelector(".view")?.dataset.picture));
    }
    if (event.target.closest("#batch-zip")) isBatchSaved = true;
  });
  addEventListener("beforeunload", (event) => {
    const hasArchive = document.querySelector("#batch-zip") && !isBatchSaved;
    if (sessionStorage.getItem("styler-lost") || (!isBusy() && !hasArchive && !unsaved.size)) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // Gradio, which listens later, would end its connection although the visitor may stay
  });
  // A page restored from the browser's cache has lost its session on the server.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  // Notices at the top of the window, each of a kind; a new one replaces the one before it.
  const showAlert = (kind, text) => {
    let notice = document.querySelector(`.alert[data-kind=${kind}]`);
    if (!text) return notice?.remove();
    if (!notice) {
      notice = document.createElement("p");
      notice.className = "alert";
      notice.dataset.kind = kind;
      notice.setAttribute("role", "alert");
      (document.querySelector(".gradio-container") ?? document.body).append(notice);
    }
    if (notice.textContent !== text) notice.textContent = text;
  };
  document.addEventListener("pointerdown", () => showAlert("refusal", ""));
  const OFFLINE = "The server is not responding. Your photo and settings are still here; try again when it is back.";
  const RESTARTED = "The server was restarted and has lost your photo and pictures; reload the page to go on.";
  const LOST =
    "The connection was interrupted, so the server has stopped and removed what it had for you: choose your photo again. " +
    "To save a picture that is still shown, right-click it.";
  let failures = 0;
  const checkServer = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch("gradio_api/app_id", { cache: "no-store" });
      failures = answer.ok ? 0 : failures + 1;
      const isOurs = !answer.ok || (await answer.json()).app_id === window.gradio_config?.app_id;
      showAlert("restart", isOurs ? "" : RESTARTED);
      const shown = document.querySelector(".compare .after");
      if (answer.ok && isOurs && shown) {
        const file = await fetch(shown.src, { method: "HEAD", cache: "no-store" });
        showAlert("lost", file.status === 404 || file.status === 403 ? LOST : "");
      }
    } catch {
      failures += 1;
    }
    showAlert("offline", failures < 2 ? "" : OFFLINE);
  };
  addEventListener("online", checkServer);
  document.addEventListener("visibilitychange", checkServer); // after the computer slept, for instance
  setInterval(checkServer, 5000);
})();
