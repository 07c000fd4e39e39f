/* Two pictures of one size as one that a slider divides: the first to its left, the second to its right. */
function slide(one, two) {
  const input = document.createElement("input"), made = document.createElement("div");
  Object.assign(input, { type: "range", min: 0, max: 100, value: 50 });
  input.setAttribute("aria-label", `${one.alt} to the left, ${two.alt} to the right`);
  const set = () => made.style.setProperty("--at", input.value + "%");
  input.addEventListener("input", set);
  made.className = "slide";
  const labels = [one, two].map(picture => Object.assign(document.createElement("span"), { textContent: picture.alt }));
  made.append(one, two, document.createElement("i"), ...labels, input);
  set();
  return made;
}
