
// A click on a column's heading sorts the table by it, a second click the other way round.
document.querySelectorAll("th").forEach((heading, column) => {
  heading.onclick = () => {
    const body = document.querySelector("tbody");
    const descending = heading.dataset.sorted === "up";
    heading.dataset.sorted = descending ? "down" : "up";
    const key = row => row.cells[column].textContent;
    const compare = (a, b) => {
      const numbers = [parseFloat(key(a)), parseFloat(key(b))];
      return numbers.some(isNaN) ? key(a).localeCompare(key(b)) : numbers[0] - numbers[1];
    };
    const rows = [...body.rows].sort(compare);
    if (descending) rows.reverse();
    body.append(...rows);
  };
});
