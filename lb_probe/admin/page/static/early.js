// Before the first paint: that there is JavaScript, and the theme that was chosen.
document.documentElement.classList.add("has-js");
const chosen = localStorage.getItem("theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
