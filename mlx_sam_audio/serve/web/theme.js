// Before anything is drawn, so that no other theme flashes: the choice of the switch, if any.
try {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
} catch {} // a browser that stores nothing follows the system
