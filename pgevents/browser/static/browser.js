"use strict";
// Every page works without this script. It shows times in the reader's zone, follows the log, moves the slider
// without loading the page, keeps subscriptions fresh, and copies.

function localTimes(root) {
  if (new Date().getTimezoneOffset() === 0) return;
  const two = (number) => String(number).padStart(2, "0");
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(time.dateTime), utc = time.textContent;
    const day = at.getFullYear() + "-" + two(at.getMonth() + 1) + "-" + two(at.getDate());
    const isSameDay = utc.startsWith(day);
    time.title = time.dateTime;
    time.textContent = day + " " + two(at.getHours()) + ":" + two(at.getMinutes()) + ":" + two(at.getSeconds()) + " ";
    const beside = document.createElement("small");
    beside.textContent = isSameDay ? utc.slice(11) : utc;
    time.append(beside);
  }
}

async function replace(url, ...ids) {
  const response = await fetch(url, { credentials: "same-origin" });
  if (!response.ok) return false;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const id of ids) {
    const fresh = page.getElementById(id), old = document.getElementById(id);
    if (!fresh || !old) return false;
    old.replaceWith(document.adoptNode(fresh));
    localTimes(fresh);
  }
  return true;
}

function follow() {
  const box = document.getElementById("live");
  if (!box) return;
  document.getElementById("tail").hidden = false;
  let timer = null;
  async function again() {
    try { await replace(location.href, "log"); } catch (error) { /* the next turn tries again */ }
    if (box.checked) timer = setTimeout(again, 1500);
  }
  box.addEventListener("change", () => { clearTimeout(timer); if (box.checked) again(); });
}

function refresh() {
  const parts = () => [...document.querySelectorAll("[data-refresh]")];
  if (!parts().length) return;
  async function again() {
    const isRead = document.hidden || parts().some((part) => part.querySelector("details[open]") || part.contains(document.activeElement));
    try { if (!isRead) await replace(location.href, ...parts().map((part) => part.id)); } catch (error) { /* the next turn tries again */ }
    setTimeout(again, 5000);
  }
  setTimeout(again, 5000);
}

function slide() {
  let wanted = null, isLoading = false;
  async function load() {
    if (isLoading || wanted === null) return;
    isLoading = true;
    const url = wanted;
    wanted = null;
    const focused = document.activeElement && document.activeElement.matches("#travel .slider *") ? document.activeElement : null;
    const role = focused && (focused.rel || "range");
    try {
      if (await replace(url, "travel")) {
        history.replaceState(null, "", url);
        mark();
        if (role) document.querySelector(role === "range" ? "#travel input[type=range]" : "#travel a[rel=" + role + "]").focus();
      } else {
        location.href = url;
      }
    } finally {
      isLoading = false;
      load();
    }
  }
  function mark() {
    const at = new URL(location.href).searchParams.get("at");
    for (const item of document.querySelectorAll(".timeline li")) {
      if (item.dataset.id === at) item.setAttribute("aria-current", "true");
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
    if (link.closest(".timeline")) document.getElementById("travel").scrollIntoView();
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
refresh();
slide();
copies();
