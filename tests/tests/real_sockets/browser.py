"""Shows the status pages of a proxy in Chromium, checks what they contain, and takes screenshots.

Arguments: the address of the status, that of an upstream which is down, a folder for screenshots,
and one for the browser's profile. It speaks the DevTools protocol over two pipes: JSON messages,
each with a zero byte at its end.
"""
import base64, json, os, subprocess, sys, time

url, down, folder, profile = sys.argv[1:]


class Browser:
    def __init__(self):
        requests, self.requests = os.pipe()
        self.answers, answers = os.pipe()

        def pass_pipes():
            # The browser reads from 3 and writes to 4.
            read, write = os.dup(requests), os.dup(answers)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            ['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
             '--disable-background-networking', '--disable-component-update', '--disable-sync',
             '--remote-debugging-pipe', f'--user-data-dir={profile}', 'about:blank'],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=pass_pipes)
        os.close(requests)
        os.close(answers)
        self.received, self.count, self.session, self.complaints = b'', 0, {}, []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self.session = {'sessionId': attached['sessionId']}
        for domain in ['Page', 'Log', 'Runtime', 'Network']:
            self.call(f'{domain}.enable')
        self.call('Emulation.setScrollbarsHidden', hidden=True)
        # The pages refresh themselves twenty times as often.
        self.call('Page.addScriptToEvaluateOnNewDocument', source="""
            const wait = setTimeout;
            window.setTimeout = (call, time) => wait(call, time / 20);
        """)

    def call(self, method, **parameters):
        self.count += 1
        message = {'id': self.count, 'method': method, 'params': parameters, **self.session}
        os.write(self.requests, json.dumps(message).encode() + b'\0')
        while True:
            answer = self.receive()
            if answer.get('id') == self.count:
                assert 'error' not in answer, (method, answer)
                return answer['result']
            if answer['method'] in ['Log.entryAdded', 'Runtime.exceptionThrown']:
                self.complaints.append(answer['params'])

    def receive(self):
        while b'\0' not in self.received:
            bytes = os.read(self.answers, 1 << 20)
            assert bytes, 'the browser has ended'
            self.received += bytes
        message, self.received = self.received.split(b'\0', 1)
        return json.loads(message)

    def value(self, expression):
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def until(self, expression):
        end = time.monotonic() + 20
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value('document.body.innerText'))
            time.sleep(0.05)

    def show(self, name, width, scheme):
        self.call('Emulation.setDeviceMetricsOverride',
                  width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setEmulatedMedia',
                  features=[{'name': 'prefers-color-scheme', 'value': scheme}])
        over = self.value(
            'document.documentElement.scrollWidth - document.documentElement.clientWidth')
        assert over == 0, f'{name}: {over} pixels too wide'
        image = self.call('Page.captureScreenshot', captureBeyondViewport=True)['data']
        with open(f'{folder}/{name}.png', 'wb') as file:
            file.write(base64.b64decode(image))
        return self.value('getComputedStyle(document.body).backgroundColor')


def check(browser):
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

    light = browser.show('wide', 1200, 'light')
    dark = browser.show('dark', 1200, 'dark')
    assert light != dark, light
    browser.show('narrow', 420, 'light')

    # The network of the browser fails, as if the server was gone.
    offline = {'latency': 0, 'downloadThroughput': -1, 'uploadThroughput': -1}
    browser.call('Network.emulateNetworkConditions', offline=True, **offline)
    gone = "getComputedStyle(document.getElementById('alert')).display !== 'none'"
    assert not browser.value(gone)
    browser.until(gone)
    assert 'has not sent its status' in browser.value("document.getElementById('alert').innerText")
    browser.show('gone', 420, 'dark')
    browser.call('Network.emulateNetworkConditions', offline=False, **offline)
    browser.until(f'!({gone})')
    browser.complaints.clear()

    browser.call('Page.navigate', url=f'{url}/connections?server=proxy')
    browser.until("document.body?.className === 'live'")
    assert browser.value("document.querySelector('td').innerText") == 'proxy'
    browser.show('connections', 420, 'light')
    assert not browser.complaints, browser.complaints


browser = Browser()
try:
    check(browser)
finally:
    browser.process.kill()
    browser.process.wait()
