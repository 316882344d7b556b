// Filters of the galleries. Without scripts the filters stay hidden and every picture is shown.
for (const gallery of document.querySelectorAll(".wrong")) {
  const controls = gallery.querySelector(".controls");
  const status = gallery.querySelector("[role=status]");
  const items = [...gallery.querySelectorAll(".gallery > li")];
  const [level, kind] = controls.querySelectorAll("select");
  const show = () => {
    for (const item of items) {
      const ofLevel = level.value === "" || item.dataset.level === level.value;
      const ofKind = kind.value === "" || item.dataset.classes.split(" ").includes(kind.value);
      item.hidden = !(ofLevel && ofKind);
    }
    const shown = items.filter(item => !item.hidden).length;
    status.textContent = `${shown} of ${items.length} shown`;
  };
  controls.addEventListener("change", show);
  controls.addEventListener("reset", () => setTimeout(show));
  controls.hidden = false;
  show();
}
