// The magnifier: a lens with the actual pixels of the painted picture, which follows the pointer and the arrow keys.
(() => {
  const RADIUS = 88;
  const MIN_RADIUS = 44; // smaller ones show too little, even of a panorama on a phone
  const GAP = 8; // between the lens and the finger below it, which would hide it
  const NEARLY_ALL = 0.6; // of the pixels: then the actual pixels are hardly larger than what is shown
  const STEP = 0.02;
  let point = null; // shares of the width and height of the picture, and whether a finger is there

  const placeLens = (view) => {
    const picture = view.querySelector(".after");
    const lens = view.querySelector(".lens");
    lens.hidden = !point;
    if (!point) return;
    const box = picture.getBoundingClientRect();
    const shown = box.width / picture.naturalWidth;
    const zoom = shown < NEARLY_ALL ? 1 : Math.ceil(2 * shown);
    const radius = Math.max(MIN_RADIUS, Math.min(RADIUS, box.height / 2));
    const [width, height] = [picture.naturalWidth * zoom, picture.naturalHeight * zoom];
    const [x, y] = [box.left + point.x * box.width, box.top + point.y * box.height - (point.isTouch ? radius + GAP : 0)];
    lens.style.width = lens.style.height = `${2 * radius}px`;
    lens.style.transform = `translate(${x - radius}px, ${y - radius}px)`;
    lens.style.backgroundSize = `${width}px ${height}px`;
    lens.style.backgroundPosition = `${radius - point.x * width}px ${radius - point.y * height}px`;
  };
  const movePoint = (view, x, y, isTouch = false) => {
    const clamp = (share) => Math.min(1, Math.max(0, share));
    point = { x: clamp(x), y: clamp(y), isTouch };
    placeLens(view);
  };
  const magnify = (view, isOn) => {
    const button = view.querySelector(".loupe");
    if (isOn) styler.setSide(view, false);
    view.classList.toggle("magnified", isOn);
    button.ariaPressed = String(isOn);
    const source = JSON.stringify(view.querySelector(".after").src);
    view.querySelector(".lens").style.backgroundImage = isOn ? `url(${source})` : "";
    point = null;
    placeLens(view);
  };

  document.addEventListener("click", (event) => {
    const view = event.target.closest?.(".loupe")?.closest(".view");
    if (!view) return;
    magnify(view, !view.classList.contains("magnified"));
    // By keyboard or touch there is no pointer that hovers.
    const hovers = event.detail && event.pointerType === "mouse";
    if (!hovers && view.classList.contains("magnified")) movePoint(view, 0.5, 0.5);
  });
  const follow = (event) => {
    const view = event.target.closest?.(".magnified");
    if (!view || !event.target.closest(".compare") || event.target.closest("button")) return;
    const box = view.querySelector(".after").getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    movePoint(view, x, y, event.pointerType !== "mouse");
  };
  document.addEventListener("pointerdown", follow);
  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerout", (event) => {
    const view = event.target.closest?.(".magnified");
    if (!view || event.pointerType !== "mouse" || event.relatedTarget?.closest?.(".compare")) return;
    point = null;
    placeLens(view);
  });
  document.addEventListener("keydown", (event) => {
    const view = event.target.closest?.(".loupe[aria-pressed=true]")?.closest(".view");
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!view || !move) return;
    event.preventDefault();
    const [x, y] = point ? [point.x, point.y] : [0.5, 0.5];
    movePoint(view, x + STEP * move[0], y + STEP * move[1]);
  });
  const followPage = () => {
    const view = document.querySelector(".magnified");
    if (view && point) placeLens(view);
  };
  document.addEventListener("scroll", followPage, { capture: true, passive: true });
  addEventListener("resize", followPage);

  styler.magnify = magnify;
})();
