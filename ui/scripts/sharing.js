// Where a finished picture can go: the clipboard, other programs, and back as the photo. Its command is copied, too.
(() => {
  /** Return a file of the server, or throw. */
  const fetchFile = async (source) => {
    const answer = await fetch(source);
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer.blob();
  };
  const copyPicture = async (view) => {
    if (!navigator.clipboard?.write || !window.ClipboardItem) {
      return "The browser lets only pages with HTTPS copy a picture; download it instead.";
    }
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": fetchFile(view.dataset.png) })]);
      return "The picture is on the clipboard.";
    } catch {
      return "The browser did not let the page copy the picture; allow it the clipboard, or download the picture.";
    }
  };
  const sharePicture = async (view) => {
    try {
      const file = new File([await fetchFile(view.dataset.png)], `${view.dataset.name}.png`, { type: "image/png" });
      await navigator.share({ files: [file] });
      return "";
    } catch (problem) {
      return problem.name === "AbortError" ? "" : "The browser could not share the picture; download it instead.";
    }
  };
  const usePicture = async (view) => {
    const limit = window.gradio_config?.max_file_size ?? Infinity;
    try {
      let [blob, suffix] = [await fetchFile(view.dataset.png), "png"];
      if (blob.size > limit) [blob, suffix] = [await fetchFile(view.querySelector(".after").src), "jpg"];
      styler.setPhoto(new File([blob], `${view.dataset.name}.${suffix}`, { type: blob.type }));
      return "";
    } catch {
      return "The picture could not be fetched from the server; download it, then choose it as the photo.";
    }
  };
  const ACTIONS = { copy: copyPicture, share: sharePicture, reuse: usePicture };

  document.addEventListener("click", async (event) => {
    const view = styler.findView();
    const act = view && ACTIONS[event.target.closest("button")?.id];
    if (act) styler.say(await act(view));
  });
  // Sharing is offered only where the browser can share files.
  const canShare = () => {
    try {
      return navigator.canShare({ files: [new File([""], "a.png", { type: "image/png" })] });
    } catch {
      return false;
    }
  };
  document.documentElement.classList.toggle("no-share", !canShare());

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

  styler.fetchFile = fetchFile;
})();
