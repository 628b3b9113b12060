"use strict";
// Every page works without this script. It shows times in the reader's zone, follows the log, moves the slider
// without loading the page, and copies.

function localTimes(root) {
  const format = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const utc = time.textContent;
    const local = format.format(new Date(time.dateTime));
    time.title = utc + " (" + time.dateTime + ")";
    if (new Date().getTimezoneOffset() !== 0) time.textContent = local + " (" + utc.slice(11) + ")";
  }
}

async function replace(url, id) {
  const response = await fetch(url, { credentials: "same-origin" });
  if (!response.ok) return false;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.getElementById(id), old = document.getElementById(id);
  if (!fresh || !old) return false;
  old.replaceWith(document.adoptNode(fresh));
  localTimes(fresh);
  return true;
}

function follow() {
  const box = document.getElementById("live");
  if (!box) return;
  let timer = null;
  async function again() {
    try { await replace(location.href, "log"); } catch (error) { /* the next turn tries again */ }
    if (box.checked) timer = setTimeout(again, 1500);
  }
  box.addEventListener("change", () => { clearTimeout(timer); if (box.checked) again(); });
}

function slide() {
  let wanted = null, isLoading = false;
  async function load() {
    if (isLoading || wanted === null) return;
    isLoading = true;
    const url = wanted;
    wanted = null;
    const focused = document.activeElement && document.activeElement.matches("#travel input[type=range]");
    try {
      if (await replace(url, "travel")) {
        history.replaceState(null, "", url);
        mark();
        if (focused) document.querySelector("#travel input[type=range]").focus();
      }
    } finally {
      isLoading = false;
      load();
    }
  }
  function mark() {
    const at = new URL(location.href).searchParams.get("at");
    for (const item of document.querySelectorAll(".timeline li")) {
      if (item.querySelector("a").textContent === at) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
    }
  }
  document.addEventListener("input", (event) => {
    const range = event.target;
    if (!range.matches("#travel input[type=range]")) return;
    const url = new URL(location.href);
    url.searchParams.set("at", range.dataset.ids.split(" ")[range.value]);
    wanted = url.href;
    load();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("#travel .slider a[href], .timeline a[href]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    wanted = link.href;
    load();
  });
}

function copies() {
  for (const block of document.querySelectorAll("pre.copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.before(button);
  }
}

localTimes(document);
follow();
slide();
copies();
