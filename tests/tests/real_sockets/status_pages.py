"""Shows the status pages of a proxy in Chromium, checks what they contain, and takes screenshots.

Arguments: the address of the status, that of an upstream which is down, a folder for screenshots,
and one for the browser's profile.
"""
url, down, folder, profile = sys.argv[1:]


def check(browser):
    # The pages refresh themselves twenty times as often.
    browser.call('Page.addScriptToEvaluateOnNewDocument', source="""
        const wait = setTimeout;
        window.setTimeout = (call, time) => wait(call, time / 20);
    """)
    browser.call('Page.navigate', url=url)
    browser.until("document.body?.className === 'live'")
    # The rates come with the second refresh.
    browser.until(
        "[...document.querySelectorAll('dd b')].every((value) => value.innerText !== '–')")
    tiles = dict(browser.value(
        "[...document.querySelectorAll('.tiles > div')].map((tile) => "
        "[tile.querySelector('dt').innerText, tile.querySelector('dd').innerText])"))
    assert tiles['Open connections'].split('\n')[0] == '1', tiles
    assert '4.88KiB in all' in tiles['Received/s'] and '4.88KiB in all' in tiles['Sent/s'], tiles
    assert browser.value('document.title') == 'proxy is accepting connections'
    text = browser.value('document.body.innerText')
    rows = {line.split()[0]: line.split()[1] for line in text.splitlines() if '127.0.0.1' in line}
    assert len(rows) == 2 and rows[down] == 'down', text
    assert 'open 1' in text and 'wirestate 0.' in text and 'up for ' in text, text
    links = browser.value("[...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    for link in ['/connections', '/metrics', '/?format=json', '/connections?server=proxy']:
        assert link in links, links

    light = browser.show(folder, 'wide', 1200, 'light')
    dark = browser.show(folder, 'dark', 1200, 'dark')
    assert light != dark, light
    browser.show(folder, 'narrow', 420, 'light')

    # The network of the browser fails, as if the server was gone.
    offline = {'latency': 0, 'downloadThroughput': -1, 'uploadThroughput': -1}
    browser.call('Network.emulateNetworkConditions', offline=True, **offline)
    gone = "getComputedStyle(document.getElementById('alert')).display !== 'none'"
    assert not browser.value(gone)
    browser.until(gone)
    assert 'has not sent its status' in browser.value("document.getElementById('alert').innerText")
    browser.show(folder, 'gone', 420, 'dark')
    browser.call('Network.emulateNetworkConditions', offline=False, **offline)
    browser.until(f'!({gone})')
    browser.complaints.clear()

    browser.call('Page.navigate', url=f'{url}/connections?server=proxy')
    browser.until("document.body?.className === 'live'")
    assert browser.value("document.querySelector('td').innerText") == 'proxy'
    browser.show(folder, 'connections', 420, 'light')
    assert not browser.complaints, browser.complaints


browser = Browser(profile)
try:
    check(browser)
finally:
    browser.process.kill()
    browser.process.wait()
