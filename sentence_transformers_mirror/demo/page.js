// What the page does beside gradio: a link to another search goes there without loading the page anew, the address
// says what is shown, and what the pointer is at is named. `element` and `trigger` are given by gradio.
const ours = ["q", "k", "where", "mode"];
let asked = null;
// What is shown next was asked by the address: of a page that loads, or of a step through the history.
let arrived = ours.some((name) => new URLSearchParams(location.search).has(name)), stepped = false;

const go = (to) => { asked = to; trigger("click", { to }); };
const answer = () => element.querySelector("[data-link]");

const addressOf = (link) => {
  const all = new URLSearchParams(link);
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (!ours.includes(name)) all.append(name, value);
  }
  const query = all.toString();
  return location.pathname + (query ? "?" + query : "");
};

const same = (link) => ours.every(
  (name) => new URLSearchParams(link).get(name) === new URLSearchParams(location.search).get(name)
);

const shown = () => {
  const link = answer()?.dataset.link;
  if (link === undefined) return;
  if (!stepped && !same(link)) history[arrived ? "replaceState" : "pushState"](null, "", addressOf(link));
  arrived = stepped = false;
  if (asked === null) return;
  asked = null;  // whoever followed a link reads on at the top
  window.scrollTo({ top: 0 });
  element.querySelector("[tabindex='-1']")?.focus({ preventScroll: true });
};
new MutationObserver(shown).observe(element, { attributes: true, childList: true, subtree: true });
window.addEventListener("popstate", () => { stepped = true; go(location.search); });
for (const act of ["keydown", "pointerdown"]) {
  document.addEventListener(act, () => { arrived = stepped = false; }, true);
}

element.addEventListener("click", (event) => {
  const point = event.target.closest(".st-point");
  const link = event.target.closest("a[href^='?']");
  if (point) {
    const to = new URLSearchParams(answer().dataset.link);
    to.set("q", point.dataset.name);
    go("?" + to);
  } else if (link && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) {
    event.preventDefault();
    go(link.getAttribute("href"));
  }
});

const light = (number, section, on) => {
  for (const one of section?.querySelectorAll(`[data-number="${CSS.escape(number)}"]`) ?? []) {
    one.classList.toggle("st-on", on);
  }
};
const name = (event, on) => {
  const one = event.target.closest?.("[data-name], [data-number]");
  if (!one) return;
  if (one.dataset.number) light(one.dataset.number, one.closest("section"), on);
  const tip = one.closest("figure")?.querySelector(".st-tip");
  if (!tip || !one.dataset.name) return;
  tip.hidden = !on;
  tip.textContent = one.dataset.name;
  const place = one.getBoundingClientRect(), frame = tip.parentElement.getBoundingClientRect();
  tip.style.top = `${place.bottom - frame.top + 6}px`;
  tip.style.left = `${Math.max(8, Math.min(place.left - frame.left, frame.width - tip.offsetWidth - 8))}px`;
};
element.addEventListener("pointerover", (event) => name(event, true));
element.addEventListener("pointerout", (event) => name(event, false));
element.addEventListener("focusin", (event) => name(event, true));
element.addEventListener("focusout", (event) => name(event, false));
