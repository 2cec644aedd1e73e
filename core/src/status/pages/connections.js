'use strict';

// Loads the page again every two seconds, and replaces its content. The table stays where it was
// scrolled to.
const refresh = async () => {
  try {
    const options = { headers: { Accept: 'text/html' }, signal: AbortSignal.timeout(5000) };
    const answer = await fetch(location.href, options);
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    for (const part of ['title', 'h1', 'tbody']) {
      document.querySelector(part).replaceWith(page.querySelector(part));
    }
    document.body.className = 'live';
  } catch {
    document.body.className = 'lost';
  }
  document.getElementById('alert').hidden = document.body.className === 'live';
  setTimeout(refresh, 2000);
};
setTimeout(refresh, 2000);
