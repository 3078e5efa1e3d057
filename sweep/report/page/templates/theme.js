"use strict";
// In the head, so that the page is never painted in the other theme first.
document.documentElement.classList.add("js");
try {
  const kept = localStorage.getItem("usweep-theme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
} catch (error) {
  // A browser that keeps nothing for files: the system's theme is used.
}
